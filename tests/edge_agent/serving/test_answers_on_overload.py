"""`on_overload = "cached"`: a kept answer where nobody else has one in time."""

import pytest

from shared.protocol.errors import Corrupt, Overloaded
from shared.protocol.pressure import ModelPressure, Pressure
from shared.serving.answer import Where
from tests.edge_agent.serving.world import MODEL, Device, FakeGateway, in_device, shut

MIB = 1 << 20


async def ask(device: Device, id: str, **fields: object) -> tuple[Where, str]:
    response = await device.router.answer(device.request(id, **fields))  # type: ignore[arg-type]
    return response.where, response.why


def busy_cloud(device: Device) -> None:
    pressure = {MODEL: ModelPressure(expected_wait_s=60.0, admit_fraction=1.0)}
    device.cloud.announced(Pressure(models=pressure, valid_until=device.clock.wall() + 60))


def test_on_overload_a_kept_answer_stands_in_for_none() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(on_overload="cached")
        await ask(device, "r1")
        # Kept for overload alone: while there is room, it is computed again.
        assert (await ask(device, "r2"))[0] is Where.LOCAL
        waiting = await device.saturate()
        busy_cloud(device)
        assert (await ask(device, "r3", within=1)) == (Where.CACHE, "both-late")
        with pytest.raises(Overloaded, match="both-late"):
            await ask(device, "r4", within=1, texts=("never asked before",))
        story = device.ring.get("r3")
        assert story is not None
        assert (story.decision, story.reason, story.where) == ("cache", "both-late", "cache")
        assert story.predicted.local_wait_ms is not None
        assert device.count("tideline_cache_total", result="overload") == 1
        assert device.count("tideline_cache_total", result="miss") == 0
        assert device.count("tideline_shed_total", reason="both-late") == 1
        await shut(device, waiting)

    in_device(test)


def test_on_overload_also_after_the_device_s_own_admission_shed_it() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="local-only", on_overload="cached")
        await ask(device, "r1")
        waiting = await device.saturate()
        assert (await ask(device, "r2", within=1)) == (Where.CACHE, "nobody-answered")
        with pytest.raises(Overloaded):
            await ask(device, "r3", within=1, texts=("never asked before",))
        story = device.ring.get("r2")
        assert story is not None
        assert (story.decision, story.reason, story.outcome) == ("local", "mode", "ok")
        assert [(each.where, each.outcome) for each in story.attempts] == [("local", "shed"), ("cache", "ok")]
        device.policy(mode="local-only")
        with pytest.raises(Overloaded):
            await ask(device, "r4", within=1)
        await shut(device, waiting)

    in_device(test)


def test_on_overload_not_for_what_is_broken() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="local-only", on_overload="cached")
        await ask(device, "r1")
        device.failing = Corrupt("broken")
        with pytest.raises(Corrupt):
            await ask(device, "r2")

    in_device(test, enrol=False)


def test_an_unsure_answer_is_better_than_none_on_overload() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="cascade", confidence_below=0.8, cache_bytes=MIB, on_overload="cached")
        gateway.status(500)
        await ask(device, "r1")
        waiting = await device.saturate()
        busy_cloud(device)
        assert (await ask(device, "r2", within=1)) == (Where.CACHE, "both-late")
        await shut(device, waiting)

    in_device(test)
