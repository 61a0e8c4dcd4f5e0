"""Who is turned away unread, over real HTTP: only whom nobody but the full device could have answered."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiohttp import web

from edge_agent.serving import why
from shared.io.web import Site, middlewares
from shared.serving.decide import overrun
from shared.serving.decide.concurrency import Concurrency
from shared.serving.faces import http
from shared.serving.faces.readiness import Readiness
from shared.serving.faces.turnstile import Turnstile
from tests.edge_agent.serving.world import MODEL, TENANT, VERSION, Device, FakeGateway, in_device, shut
from tests.shared.io.sites import Raw, Reply

INFER = f"/v2/models/{MODEL}/infer"
BODIES: Mapping[str, Mapping[str, Any]] = {
    "/predict": {"model": MODEL, "text": "hello"},
    INFER: {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}]},
    "/v1/embeddings": {"model": MODEL, "input": "hello"},
}


class LateLoop:
    """A loop whose turns take as long as a test says."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.stands = 0.0

    def turn(self) -> float:
        return self.seconds

    def ahead(self) -> float:
        return 3 * self.seconds

    def standing(self) -> float:
        return self.stands


class Served:
    """The device over HTTP."""

    def __init__(self, device: Device, port: int) -> None:
        self.device = device
        self._port = port

    async def connect(self) -> Raw:
        return Raw(*await asyncio.open_connection("127.0.0.1", self._port))

    async def ask(
        self, path: str = "/predict", *, whole: bool = True, body: bytes | None = None, **fields: str
    ) -> Reply:
        """One request, in one piece or in two, the first of which ends in the middle of its head."""
        data = json.dumps(BODIES[path]).encode() if body is None else body
        lines = {"Host": "a", "Content-Type": "application/json", "Content-Length": str(len(data)), **fields}
        sent = f"POST {path} HTTP/1.1\r\n".encode()
        sent += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items()).encode()
        sent += b"\r\n" + data
        raw = await self.connect()
        try:
            if whole:
                await raw.say(sent)
            else:
                await raw.say(sent[:20])
                await asyncio.sleep(0.02)
                await raw.say(sent[20:])
            return await raw.reply()
        finally:
            raw.writer.close()


@asynccontextmanager
async def served(device: Device, *, turnstile: bool = True) -> AsyncIterator[Served]:
    async def principal_of(_: web.Request) -> str:
        return TENANT

    app = web.Application(middlewares=middlewares(structlog.get_logger()))
    readiness, router, clock = Readiness(catalog=device.engine), device.router, device.clock
    app.add_routes(
        http.routes(
            router,
            router,
            clock=clock,
            principal_of=principal_of,
            readiness=readiness,
            early=device.early,
            lag=device.early.lag,
        )
    )
    why.add_routes(app, device.ring)
    site = Site(cancel_on_disconnect=True)
    if turnstile:
        crowded = lambda: device.engine.entrance.is_crowded(TENANT)  # noqa: E731
        site.turn_away_by(
            Turnstile(device.early, crowded=crowded, tenant=lambda: TENANT, lag=device.early.lag, clock=clock)
        )
    port = await site.start(app, host="127.0.0.1", port=0)
    try:
        yield Served(device, port)
    finally:
        await site.close()


@asynccontextmanager
async def saturated(device: Device, **options: Any) -> AsyncIterator[Served]:
    waiting = await device.saturate()
    device.engine._models[TENANT, MODEL, VERSION].limiter.concurrency = Concurrency(limit=70.0)
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(shut, device, waiting)
        yield await undo.enter_async_context(served(device, **options))


def told(reply: Reply) -> tuple[int, dict[str, str], Any]:
    """Status, headers without what differs from one moment to the next, and the document."""
    lines = (line.split(": ", 1) for line in reply.head.split("\r\n")[1:] if line)
    passing = ("date", "retry-after", "retry-after-ms")
    return reply.status, {n.lower(): v for n, v in lines if n.lower() not in passing}, json.loads(reply.body)


def test_the_turnstile_says_what_the_routes_say_and_counts_as_they_do() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="local-only", deadline_ms=3_600_000)
        async with saturated(device) as site:
            for i, path in enumerate(BODIES):
                at_once = await site.ask(path, X_Request_Id=f"same-{i}")
                parsed = await site.ask(path, whole=False, X_Request_Id=f"same-{i}")
                assert told(at_once) == told(parsed)
                assert at_once.status == 429
                assert f"x-request-id: same-{i}" in at_once.head.lower()
                assert "retry-after: " in at_once.head.lower()
                assert "retry-after-ms: " in at_once.head.lower()
            labels = {"model": MODEL, "version": VERSION, "where": "local", "outcome": "shed"}
            assert device.count("tideline_requests_total", **labels) == 2 * len(BODIES)
            assert device.count("tideline_shed_total", reason="limit") == 2 * len(BODIES)
            assert device.count("tideline_route_total", where="local", reason="mode") == 2 * len(BODIES)
            story = device.ring.find("same-1")
            assert (story.model, story.outcome, story.where, story.reason) == (MODEL, "shed", "local", "mode")
            assert story.attempts[0].outcome == "shed"

    in_device(test)


def test_a_refusal_comes_before_the_body_does() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="local-only")
        async with saturated(device) as site:
            raw = await site.connect()
            head = (
                f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9000000\r\n\r\n"
            )
            await raw.say(head.encode())
            assert (await raw.reply()).status == 429
            raw.writer.close()

    in_device(test, enrol=False)


def test_a_connection_goes_on_after_it_was_turned_away() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="local-only", deadline_ms=20000)
        async with saturated(device) as site:
            body = json.dumps(BODIES["/predict"]).encode()
            head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            whole = head.encode() + body
            raw = await site.connect()
            for _ in range(3):
                await raw.say(whole)
                assert (await raw.reply()).status == 429
            # Two at once are the parser's; so is what is no inference.
            await raw.say(whole + whole)
            assert [(await raw.reply()).status, (await raw.reply()).status] == [429, 429]
            await raw.say(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await raw.reply()).status == 200
            device.gate.set()
            while device.engine.load_of(TENANT, MODEL).queued:  # type: ignore[union-attr]
                await asyncio.sleep(0.001)
            device.costs(0.001)
            await raw.say(whole)
            assert (await raw.reply()).status == 200
            raw.writer.close()

    in_device(test)


def test_whoever_the_cloud_may_answer_is_read_and_sent_there() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="local-first")
        async with saturated(device) as site:
            reply = await site.ask(INFER)
            assert reply.status == 200
            assert "x-tideline-where: cloud" in reply.head.lower()
            private = await site.ask(INFER, X_Tideline_Privacy="local-only", X_Request_Id="p")
            assert private.status == 429
            assert device.ring.find("p").reason == "privacy"
            assert len(gateway.requests) == 1

    in_device(test)


def test_without_a_cloud_the_device_s_word_is_the_last() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="local-first")
        async with saturated(device) as site:
            assert (await site.ask(INFER, X_Request_Id="alone")).status == 429
            assert device.ring.find("alone").reason == "cloud-unreachable"

    in_device(test, enrol=False)


def test_where_a_kept_answer_or_another_version_could_stand_in_the_body_is_read() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        async with saturated(device) as site:
            smaller = {"on_overload": "smaller-model", "smaller_model": "other"}
            for rules in (smaller, {"on_overload": "cached"}, {"cache_bytes": 1 << 20}, {"split": {VERSION: 1.0}}):
                device.policy(mode="local-only", **rules)
                for path in BODIES:
                    # No refusal at the door: the routes find what is wrong with the body.
                    assert (await site.ask(path, body=b"not JSON")).status == 400
            device.policy(mode="local-only")
            assert (await site.ask(body=b"not JSON")).status == 429

    in_device(test)


def test_a_device_with_room_reads_everything() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="local-only")
        device.costs(100.0)
        async with served(device) as site:
            # Hopeless by its prediction, but idle: the prediction may be wrong.
            assert (await site.ask(body=b"not JSON", X_Tideline_Deadline_Ms="50")).status == 400

    in_device(test)


def test_what_expired_in_a_late_loop_is_not_read_either() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="local-first")
        late = device.early.lag = LateLoop()  # type: ignore[assignment]
        async with served(device) as site:
            late.seconds = 1.0
            reply = await site.ask(X_Tideline_Deadline_Ms="500", X_Request_Id="gone")
            assert reply.status == 504
            story = device.ring.find("gone")
            assert (story.outcome, story.reason, story.where) == ("deadline-missed", "expired", None)
            assert (await site.ask(X_Tideline_Deadline_Ms="5000")).status == 200
            assert (await site.ask()).status == 200

    in_device(test)


def test_a_late_loop_s_turns_ahead_count_against_the_deadline_where_requests_are_under_way() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="local-only")
        late = device.early.lag = LateLoop()  # type: ignore[assignment]
        device.gate.clear()
        waiting = asyncio.create_task(device.engine.answer(device.request()))
        async with served(device) as site:
            while not device.engine.load_of(TENANT, MODEL).running:  # type: ignore[union-attr]
                await asyncio.sleep(0.001)
            late.seconds = 0.2
            reply = await site.ask(X_Tideline_Deadline_Ms="500")
            assert reply.status == 429
            assert json.loads(reply.body)["code"] == "deadline"
            device.gate.set()
            await waiting
            assert (await site.ask(X_Tideline_Deadline_Ms="5000")).status == 200

    in_device(test)


def test_a_loop_that_stays_late_turns_away_what_it_could_not_answer_while_lanes_have_work() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="local-only")
        late = device.early.lag = LateLoop()  # type: ignore[assignment]
        device.gate.clear()
        async with served(device) as site:
            late.seconds = late.stands = 2 * overrun.FULL_S
            waiting = asyncio.create_task(site.ask(X_Tideline_Deadline_Ms="20000"))
            while not device.engine.load_of(TENANT, MODEL).running:  # type: ignore[union-attr]
                await asyncio.sleep(0.001)
            reply = await site.ask()
            assert (reply.status, json.loads(reply.body)["code"]) == (429, "event-loop")
            assert device.count("tideline_shed_total", reason="event-loop") == 1
            late.stands = 0.0  # As late, but for this turn alone: nobody is turned away for a hiccup.
            second = asyncio.create_task(site.ask(X_Tideline_Deadline_Ms="20000"))
            while device.engine.load_of(TENANT, MODEL).queued < 1:  # type: ignore[union-attr]
                await asyncio.sleep(0.001)
            device.gate.set()
            assert [(await each).status for each in (waiting, second)] == [200, 200]

    in_device(test)
