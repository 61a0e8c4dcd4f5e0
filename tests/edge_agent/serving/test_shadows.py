import asyncio
import threading

import pytest

from edge_agent.serving import shadows
from shared.protocol.errors import Corrupt, Refused
from shared.protocol.telemetry import ShadowCount
from shared.serving.answer import Where
from shared.serving.decide.admission import Limits
from tests.edge_agent.serving.world import MODEL, TENANT, VERSION, Device, FakeGateway, in_device, shut

SHADOW = "1.4.0"


async def shadowed(device: Device, result: str, reason: str, times: int = 1) -> None:
    """Wait until so many copies have ended like that."""
    labels = {"model": MODEL, "version": SHADOW, "result": result, "reason": reason}
    async with asyncio.timeout(10):
        while device.count("tideline_shadow_total", **labels) < times:
            await asyncio.sleep(0.001)
    assert device.count("tideline_shadow_total", **labels) == times


async def with_shadow(device: Device, **more: object) -> None:
    await device.load(SHADOW, activate=False)
    device.policy(shadow=SHADOW, **more)


def test_a_version_that_says_the_same_agrees_and_nobody_notices() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.other(SHADOW, score=0.9)
        await with_shadow(device)
        response = await device.router.answer(device.request("r1"))
        assert (response.where, response.version, response.why) == (Where.LOCAL, VERSION, "local-meets-deadline")
        await shadowed(device, "agree", "same")
        story = device.ring.get("r1")
        assert story is not None
        assert [(each.where, each.outcome) for each in story.attempts] == [("local", "ok")]
        labels = {"model": MODEL, "version": SHADOW, "where": "local", "outcome": "ok"}
        assert device.count("tideline_requests_total", **labels) == 0
        assert device.router.statistics(TENANT, MODEL, SHADOW).success.count == 0
        (count,), _ = device.interval.take()
        assert (count.version, count.count) == (VERSION, 1)
        assert device.interval.take_shadows() == (
            ShadowCount(model=MODEL, version=SHADOW, result="agree", reason="same", count=1),
        )
        assert device.interval.take_shadows() == ()
        assert gateway.requests == []

    in_device(test)


def test_a_version_that_says_something_else_differs() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.labels[SHADOW] = "better"
        device.other(SHADOW)
        await with_shadow(device)
        for i in range(3):
            await device.router.answer(device.request(f"r{i}"))
            await shadowed(device, "differ", "label", i + 1)

    in_device(test)


def test_a_version_that_fails_is_its_own_problem() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        session = device.other(SHADOW)
        await with_shadow(device)

        def broken(feeds: object) -> None:
            raise Corrupt("broken")

        session._script = broken  # type: ignore[assignment]
        assert (await device.router.answer(device.request("r1"))).where is Where.LOCAL
        await shadowed(device, "failed", "corrupt")

    in_device(test)


def test_a_copy_that_hangs_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "PATIENCE_S", 0.05)
    gate = threading.Event()
    gate.set()

    async def test(device: Device, gateway: FakeGateway) -> None:
        device.other(SHADOW, gate=gate)
        await with_shadow(device)
        gate.clear()
        await device.router.answer(device.request("r1"))
        await shadowed(device, "failed", "deadline-missed")
        gate.set()

    in_device(test)


def test_it_is_dropped_where_the_version_is_not_there_or_not_ready() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(shadow=SHADOW)
        await device.router.answer(device.request("r1"))
        await shadowed(device, "dropped", "not-ready")

    in_device(test)


def test_a_request_ends_the_copies_and_is_neither_delayed_nor_refused_by_them() -> None:
    gate = threading.Event()
    gate.set()

    async def test(device: Device, gateway: FakeGateway) -> None:
        session = device.other(SHADOW, gate=gate)
        await with_shadow(device, mode="local-only")
        gate.clear()
        session.started.clear()
        await device.router.answer(device.request("r1"))
        await asyncio.to_thread(session.started.wait, 10)
        assert device.shadows.running
        # One entry is all that may wait or run: the copy holds it, and would have the request shed.
        device.engine._limits = Limits(entries=1, tokens=5)
        response = await device.router.answer(device.request("r2"))
        assert (response.where, response.version) == (Where.LOCAL, VERSION)
        await shadowed(device, "dropped", "request-came")
        gate.set()

    in_device(test)


def test_a_copy_that_did_not_begin_yet_is_counted_too() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.other(SHADOW)
        await with_shadow(device)
        request = device.request("r1")
        response = await device.engine.answer(request)
        for _ in range(6):
            device.shadows.consider(request, response, SHADOW, under_way=0)
        await device.shadows.make_way()
        assert not device.shadows.running
        await shadowed(device, "dropped", "full", 2)
        await shadowed(device, "dropped", "request-came", 4)

    in_device(test)


def test_a_busy_device_computes_no_copies() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        session = device.other(SHADOW)
        await with_shadow(device)
        runs = len(session.runs)
        device.gate.clear()
        first = asyncio.create_task(device.router.answer(device.request("r1")))
        second = asyncio.create_task(device.router.answer(device.request("r2", texts=("x" * 5000,))))
        await asyncio.to_thread(device.session.started.wait, 10)
        waiting = asyncio.create_task(device.router.answer(device.request("r3", version=SHADOW)))
        # Answered by the shadow version itself while others are under way: never a copy of its own.
        await waiting
        assert len(session.runs) == runs + 1
        device.gate.set()
        await asyncio.gather(first, second)
        # Whoever ended first found the other still under way.
        await shadowed(device, "dropped", "busy")
        await shadowed(device, "agree", "same")

    in_device(test)


def test_only_what_the_device_itself_computed_is_copied() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        session = device.other(SHADOW)
        await with_shadow(device, cache_bytes=1 << 20)
        runs = len(session.runs)
        await device.router.answer(device.request("r1"))
        await shadowed(device, "agree", "same")
        assert (await device.router.answer(device.request("r2"))).where is Where.CACHE
        await device.router.answer(device.request("r3", texts=("by chance",), parameters={"temperature": 1.0}))
        with pytest.raises(Refused):
            await device.router.answer(device.request("r4", model="other", privacy="local-only"))
        _ = [piece async for piece in device.router.stream(device.request("r5"))]
        waiting = await device.saturate()
        assert (await device.router.answer(device.request("r6", texts=("late",), within=5))).where is Where.CLOUD
        await shut(device, waiting)
        assert not device.shadows.running
        assert len(session.runs) == runs + 1

    in_device(test)


def test_a_copy_stays_where_it_is_and_comes_after_everything_else() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        gate = threading.Event()
        gate.set()
        session = device.other(SHADOW, gate=gate)
        await with_shadow(device)
        gate.clear()
        session.started.clear()
        held = asyncio.create_task(device.engine.answer(device.request("held", version=SHADOW, texts=("a" * 4000,))))
        await asyncio.to_thread(session.started.wait, 10)
        await device.router.answer(device.request("r1", texts=("b" * 3000,)))
        others = [
            asyncio.create_task(device.engine.answer(device.request(f"o{i}", version=SHADOW, texts=("c" * 3000,))))
            for i in range(2)
        ]
        load = device.engine.load_of(TENANT, MODEL, SHADOW)
        assert load is not None
        queue = device.engine._models[TENANT, MODEL, SHADOW].queue
        async with asyncio.timeout(10):
            while queue.depth < 3:
                await asyncio.sleep(0.001)
        ranked = sorted(queue._waiting.values(), key=lambda entry: entry.waiting.priority)
        assert [entry.waiting.priority for entry in ranked] == [0, 0, 100]
        gate.set()
        await asyncio.gather(held, *others)
        await shadowed(device, "agree", "same")

    in_device(test)
