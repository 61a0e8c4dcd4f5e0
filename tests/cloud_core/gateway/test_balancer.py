"""The balancer over a scripted transport: what is tried again, what is charged, what is counted and explained."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from prometheus_client import CollectorRegistry

from cloud_core.decide.wanted import Version
from cloud_core.gateway.balancer import Balancer
from cloud_core.gateway.catalog import GatewayCatalog
from cloud_core.gateway.explanations import Explanations
from cloud_core.gateway.fleet import Fleet
from cloud_core.gateway.metrics import GatewayMetrics
from cloud_core.store.replicas import Replica
from shared.bundle.manifest import File, Manifest, TaskKind, Variant, canonical, digest_of
from shared.io.clock import SystemClock
from shared.protocol.errors import Overloaded, Refused, TidelineError, Transient, Unavailable
from shared.serving.answer import Label, Request, Response, Where

MANIFEST = canonical(
    Manifest(
        name="m",
        version="1.0.0",
        task=TaskKind.TEXT_CLASSIFICATION,
        variants=(Variant(name="v", runtime="onnx", precision="fp32", files=("f",)),),
        files=(File(path="f", size=0, sha256="0" * 64, chunks=()),),
    )
)
DOWN = Transient("gone", why=Unavailable.UNREACHABLE)


def response(request: Request) -> Response:
    result = Label(label="a", score=1.0, scores={"a": 1.0})
    return Response(
        id=request.id, model="m", version="1.0.0", variant="v", digest="d", task="text-classification",
        results=(result,), where=Where.CLOUD, why="",
    )  # fmt: skip


Script = Callable[[str, Request], Awaitable[Response]]


class Scripted:
    """A transport that does what the test says."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[str] = []

    async def answer(self, url: str, request: Request) -> Response:
        self.asked.append(url)
        return await self.script(url, request)

    async def stream(self, url: str, request: Request) -> AsyncGenerator[Response, None]:
        self.asked.append(url)
        yield await self.script(url, request)


class Bench:
    def __init__(self, script: Script, *names: str) -> None:
        self.registry = CollectorRegistry()
        self.fleet = Fleet()
        self.catalog = GatewayCatalog(self.fleet)
        self.explanations = Explanations()
        self.transport = Scripted(script)
        self.looked = 0
        served = '[{"tenant":"t","name":"m","version":"1.0.0","variant":"v","state":"ready"}]'
        rows = [
            Replica(replica=name, url=f"http://{name}", kind="local", models=served, started_at=1.0, seen_at=1.0)
            for name in names
        ]
        clock = SystemClock()
        self.fleet.observe(rows, now=clock.monotonic())
        digest = digest_of(MANIFEST)
        self.catalog.observe([Version("t", "m", "1.0.0", digest)], {("t", digest): MANIFEST.decode()})
        self.balancer = Balancer(
            self.fleet,
            self.catalog,
            self.transport,
            look_again=self.look,
            explanations=self.explanations,
            metrics=GatewayMetrics(self.registry, self.fleet),
            clock=clock,
            draw=random.Random(7).random,
        )

    async def look(self) -> None:
        self.looked += 1

    def counted(self, outcome: str) -> float:
        labels = {"model": "m", "version": "1.0.0", "where": "cloud", "outcome": outcome}
        return self.registry.get_sample_value("tideline_requests_total", labels) or 0.0

    def nothing_is_charged(self) -> bool:
        return all(member.outstanding == 0.0 and member.in_flight == 0 for member in self.fleet.members.values())


def request(*, left: float | None = None, id: str = "r1") -> Request:
    deadline = None if left is None else SystemClock().monotonic() + left
    return Request(id=id, tenant="t", model="m", texts=("你好",), deadline=deadline)


async def answers(url: str, request: Request) -> Response:
    assert request.version == "1.0.0"
    return response(request)


def fails(error: TidelineError, *urls: str) -> Script:
    async def script(url: str, request: Request) -> Response:
        if not urls or url in urls:
            raise error
        return response(request)

    return script


def test_a_transport_failure_is_tried_again_on_the_other_replica_and_then_avoided() -> None:
    async def main() -> None:
        bench = Bench(fails(DOWN, "http://a"), "a", "b")
        for i in range(40):
            await bench.balancer.answer(request(id=f"r{i}"))
        # Three failures eject it; the other forty answers came from b.
        assert bench.transport.asked.count("http://a") == 3
        assert bench.transport.asked.count("http://b") == 40
        assert bench.counted("ok") == 40
        assert bench.nothing_is_charged()
        told = [bench.explanations.find("t", f"r{i}") for i in range(40)]
        twice = [explanation for explanation in told if len(explanation.attempts) == 2]
        assert [attempt.outcome for attempt in twice[0].attempts] == ["unreachable", "ok"]
        assert [attempt.replica for attempt in twice[0].attempts] == ["a", "b"]

    asyncio.run(main())


def test_the_only_replica_is_tried_twice_and_the_table_is_read_in_between() -> None:
    async def main() -> None:
        bench = Bench(fails(DOWN), "a")
        with pytest.raises(Transient) as caught:
            await bench.balancer.answer(request())
        assert caught.value.why is Unavailable.NOT_READY
        assert caught.value.retry_after == 1.0
        assert bench.transport.asked == ["http://a", "http://a"]
        assert bench.looked == 1
        assert bench.nothing_is_charged()
        # The third failure ejects it: now nobody is left, and the refusal says when to come back.
        with pytest.raises(Transient) as caught:
            await bench.balancer.answer(request(id="r2"))
        assert caught.value.why is Unavailable.NOT_READY
        assert (caught.value.retry_after or 0) >= 1.0
        assert len(bench.transport.asked) == 3
        assert bench.explanations.find("t", "r2").attempts[-1].reason == "all-ejected"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(Overloaded("busy", retry_after=2.0), "shed"), (Refused("too long"), "refused")],
)
def test_a_replicas_own_answer_is_the_answer(error: TidelineError, outcome: str) -> None:
    async def main() -> None:
        bench = Bench(fails(error), "a", "b")
        with pytest.raises(type(error)) as caught:
            await bench.balancer.answer(request())
        assert caught.value is error
        assert len(bench.transport.asked) == 1
        assert bench.counted(outcome) == 1
        assert bench.nothing_is_charged()

    asyncio.run(main())


def test_the_deadline_is_kept_and_a_cancelled_client_cancels_the_replica() -> None:
    async def main() -> None:
        cancelled: list[str] = []
        waiting = asyncio.Event()

        async def hangs(url: str, request: Request) -> Response:
            waiting.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(url)
                raise
            raise AssertionError

        bench = Bench(hangs, "a")
        with pytest.raises(Transient) as caught:
            await bench.balancer.answer(request(left=0.05))
        assert caught.value.why is Unavailable.DEADLINE
        assert cancelled == ["http://a"]
        waiting.clear()
        call = asyncio.create_task(bench.balancer.answer(request(id="r2")))
        await asyncio.wait_for(waiting.wait(), 5)
        assert bench.fleet.members["a"].outstanding > 0
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert cancelled == ["http://a", "http://a"]
        assert bench.nothing_is_charged()
        assert bench.fleet.members["a"].health.failures == 0
        assert bench.counted("cancelled") == 1

    asyncio.run(main())


def test_unknown_models_are_refused_and_other_tenants_do_not_exist() -> None:
    async def main() -> None:
        bench = Bench(answers, "a")
        for tenant, model in (("t", "other"), ("u", "m")):
            with pytest.raises(Refused):
                await bench.balancer.answer(Request(id="r", tenant=tenant, model=model, texts=("x",)))
        assert bench.transport.asked == []

    asyncio.run(main())


def test_a_stream_is_tried_again_until_its_first_piece() -> None:
    async def main() -> None:
        bench = Bench(fails(DOWN, "http://a"), "a", "b")
        for i in range(10):
            pieces = [piece async for piece in bench.balancer.stream(request(id=f"r{i}"))]
            assert len(pieces) == 1
        assert bench.nothing_is_charged()
        assert bench.counted("ok") == 10

    asyncio.run(main())


def test_work_spreads_by_what_is_outstanding() -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def held(url: str, request: Request) -> Response:
            await release.wait()
            return response(request)

        bench = Bench(held, "a", "b", "c")
        calls = [asyncio.create_task(bench.balancer.answer(request(id=f"r{i}"))) for i in range(60)]

        async def all_sent() -> None:
            while len(bench.transport.asked) < 60:
                await asyncio.sleep(0)

        await asyncio.wait_for(all_sent(), 10)
        shares = [bench.transport.asked.count(f"http://{name}") for name in "abc"]
        assert max(shares) - min(shares) <= 6
        release.set()
        await asyncio.gather(*calls)
        assert bench.nothing_is_charged()

    asyncio.run(main())
