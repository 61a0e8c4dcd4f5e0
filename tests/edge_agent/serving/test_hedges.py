"""A second attempt beside the first: real sockets, the real engine; who wins, who is cancelled, what is counted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from edge_agent.decide.routing import Reason
from shared.protocol.errors import Overloaded, Transient
from shared.protocol.topics import Header
from shared.serving.answer import Response, Where
from shared.serving.faces.context import headers_of
from tests.edge_agent.serving.world import MODEL, TENANT, VERSION, Device, FakeGateway, header, in_device, shut


class Mute:
    """A socket that accepts, reads, and never says a word. `closed` counts connections the other side gave up."""

    def __init__(self) -> None:
        self.url = ""
        self.accepted = self.closed = 0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        while await reader.read(65536):
            pass
        self.closed += 1
        writer.close()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Mute"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self


def prefer_the_cloud(device: Device) -> None:
    """The device seems slower than the cloud, though well within any deadline here."""
    device.cloud._learn(MODEL, 1e-9)
    device.cloud._learn(MODEL, 1e-9)
    device.costs(0.5)


def never_on_the_loop(device: Device) -> None:
    """Runs that were fast are made on the event loop, where a closed gate would hold everybody."""
    device.engine._models[TENANT, MODEL, VERSION].program.inline = None


async def stuck(device: Device) -> list["asyncio.Task[Response]"]:
    """A batch that computes until the gate opens: what comes after it waits."""
    never_on_the_loop(device)
    device.gate.clear()
    device.session.started.clear()
    busy = [asyncio.create_task(device.engine.answer(device.request("w")))]
    while not device.session.started.is_set():
        await asyncio.sleep(0.001)
    return busy


def test_a_cloud_that_accepts_and_never_answers_costs_at_most_the_hedge() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        await device.router.answer(device.request("warm"))
        async with Mute().listening() as mute:
            device.enrol(mute.url)
            device.policy(mode="fastest", hedge_after_ms=20, deadline_ms=60_000)
            prefer_the_cloud(device)
            response = await device.router.answer(device.request("h1"))
            assert (response.where, response.why, response.hedged) == (Where.LOCAL, "hedged", True)
            assert headers_of(response)[Header.HEDGED] == "true"
            assert mute.accepted == 1
            while mute.closed < 1:
                await asyncio.sleep(0.001)
            story = device.ring.get("h1")
            assert story is not None
            assert [(each.where, each.reason, each.outcome) for each in story.attempts] == [
                ("cloud", "cloud-faster", "cancelled"),
                ("local", "hedged", "ok"),
            ]
            # Far from the deadline, and the hedge not before its time.
            assert 20 <= story.attempts[1].after_ms < 30_000
            assert (story.where, story.outcome) == ("local", "ok")
            ended = [each for each in device.interval.take()[0] if each.where == "local"]
            assert sum(each.count for each in ended if each.reason == "hedged") == 1
            assert sum(each.count for each in ended) == 2
            labels = {"model": MODEL, "version": VERSION}
            assert device.count("tideline_requests_total", where="local", outcome="ok", **labels) == 2
            assert device.count("tideline_requests_total", where="cloud", outcome="cancelled", **labels) == 0
            assert device.count("tideline_hedges_total", first="cloud", outcome="local") == 1

    in_device(test)


def test_the_cloud_answers_for_a_device_that_is_stuck_and_the_device_s_work_is_given_up() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(hedge_after_ms=20, deadline_ms=60_000)
        busy = await stuck(device)
        response = await device.router.answer(device.request("h2"))
        assert (response.where, response.why, response.hedged) == (Where.CLOUD, "hedged", True)
        (sent,) = gateway.requests
        assert header(sent) == "h2"
        story = device.ring.get("h2")
        assert story is not None
        assert [(each.where, each.outcome) for each in story.attempts] == [("local", "cancelled"), ("cloud", "ok")]
        await shut(device, busy)
        assert device.count("tideline_hedges_total", first="local", outcome="cloud") == 1
        (ended,), _ = device.interval.take()
        assert (ended.where, ended.reason, ended.count) == ("cloud", "hedged", 1)

    in_device(test)


@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        ({}, {"privacy": "local-only"}),
        ({"privacy_tags": ["medical"]}, {"privacy": "medical"}),
        ({}, {"parameters": {"temperature": 0.7}}),
        ({"mode": "local-only"}, {}),
        ({"cloud_budget": {"per_day": 0}}, {}),
        ({"hedge_after_ms": None}, {}),
    ],
)
def test_what_is_not_hedged_waits_for_the_device(policy: dict[str, object], fields: dict[str, object]) -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        rules = {"hedge_after_ms": 5, "deadline_ms": 60_000, **policy}
        device.policy(**{key: value for key, value in rules.items() if value is not None})
        device.gate.clear()
        runs = len(device.session.runs)
        task = asyncio.create_task(device.router.answer(device.request("r1", **fields)))
        done, _ = await asyncio.wait({task}, timeout=0.1)
        assert not done
        device.gate.set()
        response = await task
        assert (response.where, response.hedged) == (Where.LOCAL, False)
        assert gateway.requests == []
        assert len(device.session.runs) == runs + 1

    in_device(test)


def test_hedges_share_the_retry_budget_with_every_other_second_attempt() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(hedge_after_ms=1, deadline_ms=60_000)
        busy = await stuck(device)
        waiting = [asyncio.create_task(device.router.answer(device.request(f"r{i}"))) for i in range(40)]
        done, _ = await asyncio.wait(waiting, timeout=1.0)
        # Ten to begin with, and a tenth of forty.
        assert len(done) == len(gateway.requests) <= 14
        assert all(task.result().hedged for task in done)
        assert not device.cloud.state(MODEL, device.router._rules.of(MODEL)).retries_left
        await shut(device, [*busy, *waiting])

    in_device(test)


def test_both_fail_and_the_first_is_told() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(hedge_after_ms=20, deadline_ms=400)
        device.gate.clear()
        gateway.status(503)
        with pytest.raises(Transient) as caught:
            await device.router.answer(device.request("r1"))
        assert "deadline" in str(caught.value)
        story = device.ring.get("r1")
        assert story is not None
        assert [(each.where, each.outcome) for each in story.attempts] == [
            ("local", "deadline-missed"),
            ("cloud", "unreachable"),
        ]
        assert device.count("tideline_hedges_total", first="local", outcome="failed") == 1
        device.gate.set()

    in_device(test)


def test_an_unsure_device_waits_for_the_cloud_it_was_hedged_with() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="cascade", confidence_below=0.8, hedge_after_ms=20, deadline_ms=60_000)
        release = gateway.hang()
        device.gate.clear()
        task = asyncio.create_task(device.router.answer(device.request("r1")))
        while not gateway.requests:
            await asyncio.sleep(0.001)
        device.gate.set()
        done, _ = await asyncio.wait({task}, timeout=0.1)
        assert not done
        release.set()
        response = await task
        assert (response.where, response.why, response.hedged) == (Where.CLOUD, "hedged", True)
        assert len(gateway.requests) == 1
        story = device.ring.get("r1")
        assert story is not None
        assert story.compared == "differ (label)"

    in_device(test)


def test_a_caller_that_goes_away_ends_both() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        async with Mute().listening() as mute:
            device.enrol(mute.url)
            device.policy(hedge_after_ms=5, deadline_ms=60_000)
            device.gate.clear()
            task = asyncio.create_task(device.router.answer(device.request("r1")))
            while mute.accepted < 1:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while mute.closed < 1:
                await asyncio.sleep(0.001)
            device.gate.set()
            story = device.ring.get("r1")
            assert story is not None
            assert story.outcome == "cancelled"
            assert {each.outcome for each in story.attempts} == {"cancelled"}
            # Nothing was learnt of the cloud.
            assert device.cloud._breaker.failures == 0

    in_device(test)


def test_a_saturated_device_is_no_second_place() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        waiting = await device.saturate()
        device.policy(hedge_after_ms=5)
        gateway.hang()
        with pytest.raises((Overloaded, Transient)):
            await device.router.answer(device.request("r1", within=0.4))
        story = device.ring.get("r1")
        assert story is not None
        assert [each.where for each in story.attempts] == ["cloud"]
        assert story.attempts[0].reason == Reason.LOCAL_SATURATED.value
        await shut(device, waiting)

    in_device(test)
