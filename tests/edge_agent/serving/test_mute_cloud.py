"""A cloud that accepts and never answers: what it costs, and how it is found out."""

import asyncio

import pytest

from edge_agent.decide.breaker import State
from shared.serving.answer import Where
from tests.edge_agent.serving.test_hedges import Mute, prefer_the_cloud
from tests.edge_agent.serving.world import MODEL, Device, FakeGateway, in_device, shut


def test_a_mute_cloud_opens_the_breaker_though_nobody_waits_for_it_to_run_late() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        await device.router.answer(device.request("warm"))
        async with Mute().listening() as mute:
            device.enrol(mute.url)
            device.policy(mode="fastest", hedge_after_ms="p95", deadline_ms=60_000)
            for _ in range(25):
                device.cloud._paces.answered(MODEL, 0.01)
            for i in range(5):
                prefer_the_cloud(device)
                assert (await device.router.answer(device.request(f"m{i}"))).hedged
            assert device.cloud.breaker is State.OPEN
            after = await device.router.answer(device.request("after"))
            assert (after.where, after.hedged) == (Where.LOCAL, False)
            assert mute.accepted == 5

    in_device(test)


def test_without_a_hedge_the_device_still_answers_for_a_mute_cloud_in_time() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        await device.router.answer(device.request("warm"))
        async with Mute().listening() as mute:
            device.enrol(mute.url)
            device.policy(mode="fastest")
            device.cloud._learn(MODEL, 1e-9)
            device.cloud._learn(MODEL, 1e-9)
            device.costs(0.6)
            response = await device.router.answer(device.request("r1", within=3.0))
            assert (response.where, response.why, response.hedged) == (Where.LOCAL, "cloud-failed", False)

    in_device(test)


def test_a_device_that_was_full_when_the_hedge_was_due_is_asked_once_it_is_not() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        async with Mute().listening() as mute:
            device.enrol(mute.url)
            device.policy(mode="fastest", hedge_after_ms=5, deadline_ms=60_000)
            waiting = await device.saturate()
            prefer_the_cloud(device)
            task = asyncio.create_task(device.router.answer(device.request("r1")))
            while mute.accepted < 1:
                await asyncio.sleep(0.001)
            done, _ = await asyncio.wait({task}, timeout=0.1)
            assert not done
            await shut(device, waiting)
            response = await task
            assert (response.where, response.why, response.hedged) == (Where.LOCAL, "hedged", True)
            story = device.ring.get("r1")
            assert story is not None
            assert [(each.where, each.outcome) for each in story.attempts] == [("cloud", "cancelled"), ("local", "ok")]

    in_device(test)


@pytest.mark.parametrize("ended", ["overtaken", "ran_late"])
def test_silences_that_are_each_usual_are_not_usual_in_a_row(ended: str) -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        for seconds in (0.01, 5.0) * 10:
            device.cloud._paces.answered(MODEL, seconds)
        rules = device.router._rules.of(MODEL)

        def silent(count: int) -> None:
            for _ in range(count):
                assert device.cloud.state(MODEL, rules).permitted
                device.cloud.sent()
                getattr(device.cloud, ended)(MODEL, 1.0)

        # Every second answer takes longer than that: four in a row say nothing yet, and a word from the cloud all of it.
        silent(4)
        device.cloud.sent()
        device.cloud.refused()
        silent(4)
        assert device.cloud._breaker.failures == 0
        silent(5)
        assert device.cloud.breaker is State.OPEN

    in_device(test)


def test_without_a_retry_left_the_device_still_takes_its_last_chance() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        async with Mute().listening() as mute:
            device.enrol(mute.url)
            device.policy(mode="fastest", hedge_after_ms=20)
            prefer_the_cloud(device)
            # More than half of the time there is: the cloud gets all of it, and nothing is kept back.
            device.costs(16.0)
            while device.cloud._retries.has_one:
                device.cloud.retried()
            response = await device.router.answer(device.request("r1", within=1.5))
            assert (response.where, response.why, response.hedged) == (Where.LOCAL, "hedged", True)

    in_device(test)
