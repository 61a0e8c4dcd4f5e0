import asyncio
import contextlib

import pytest

from edge_agent.decide.breaker import State
from edge_agent.decide.routing import LocalState
from shared.protocol.errors import Corrupt, Overloaded, Refused, Transient, Unavailable
from shared.serving.answer import Where
from tests.edge_agent.serving.world import MODEL, VERSION, Device, FakeGateway, in_device, shut


def test_a_dead_gateway_costs_the_breaker_not_the_device() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.enrol("http://127.0.0.1:1")
        device.policy(mode="cloud-only")
        for i in range(5):
            with pytest.raises(Transient):
                await device.router.answer(device.request(f"d{i}"))
        assert device.cloud.breaker is State.OPEN
        with pytest.raises(Transient) as caught:
            await device.router.answer(device.request("d5"))
        assert caught.value.why is Unavailable.UNREACHABLE
        assert caught.value.retry_after is not None
        story = device.ring.get("d5")
        assert story is not None
        assert (story.attempts, story.reason) == ((), "cloud-unreachable")
        assert device.count("tideline_breaker_state", state="open") == 1
        device.policy(mode="fastest")
        response = await device.router.answer(device.request("d6"))
        assert (response.where, response.why) == (Where.LOCAL, "cloud-unreachable")

    in_device(test)


def test_a_failing_cloud_falls_back_to_a_device_that_can_still_make_it() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="fastest")
        await device.router.answer(device.request("warm"))
        device.cloud._learn(MODEL, 1e-9)
        device.cloud._learn(MODEL, 1e-9)
        # The device seems slower than the cloud, though well within the deadline.
        device.costs(1.0)
        gateway.status(503)
        response = await device.router.answer(device.request("back"))
        assert (response.where, response.why) == (Where.LOCAL, "cloud-failed")
        story = device.ring.get("back")
        assert story is not None
        assert [(a.where, a.outcome) for a in story.attempts] == [("cloud", "unreachable"), ("local", "ok")]
        assert story.decision == "cloud"

    in_device(test)


def test_a_broken_session_falls_back_to_the_cloud_within_the_retry_budget() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.failing = Corrupt("the program is broken")
        places = []
        for i in range(15):
            try:
                places.append((await device.router.answer(device.request(f"f{i}"))).why)
            except Corrupt:
                places.append("failed")
        assert places[:10] == ["local-failed"] * 10
        assert "failed" in places[10:]
        assert len(gateway.requests) == places.count("local-failed") <= 12

    in_device(test)


def test_a_bad_request_is_nobodys_failure() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="cloud-only")
        gateway.status(422)
        for i in range(8):
            with pytest.raises(Refused, match="as scripted"):
                await device.router.answer(device.request(f"b{i}"))
        assert device.cloud.breaker is State.CLOSED
        gateway.status(429, **{"Retry-After": "7"})
        with pytest.raises(Overloaded) as caught:
            await device.router.answer(device.request("b9"))
        assert caught.value.retry_after == 7
        assert device.cloud.breaker is State.CLOSED

    in_device(test)


def test_a_hanging_gateway_ends_with_the_deadline_and_opens_the_breaker() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="cloud-only")
        release = gateway.hang()
        for i in range(5):
            with pytest.raises(Transient) as caught:
                await device.router.answer(device.request(f"h{i}", within=0.3))
            assert caught.value.why is Unavailable.DEADLINE
        assert device.cloud.breaker is State.OPEN
        release.set()

    in_device(test)


def test_impatient_callers_do_not_speak_for_the_cloud() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="cloud-only")
        release = gateway.hang()
        for i in range(8):
            with pytest.raises(Transient):
                await device.router.answer(device.request(f"i{i}", within=0.03))
        assert device.cloud.breaker is State.CLOSED
        release.set()

    in_device(test)


def test_a_caller_that_leaves_a_probe_lets_the_next_one_probe() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="cloud-only")
        device.draw = 0.0
        gateway.status(500)
        for i in range(5):
            with pytest.raises(Transient):
                await device.router.answer(device.request(f"o{i}"))
        release = gateway.hang()
        while device.cloud.breaker is State.OPEN:
            probe = asyncio.create_task(device.router.answer(device.request("probe", within=60)))
            await asyncio.wait({probe}, timeout=0.05)
            if probe.done():
                with pytest.raises(Transient):
                    probe.result()
        seen = len(gateway.requests)
        with pytest.raises(Transient):
            await device.router.answer(device.request("second"))
        assert len(gateway.requests) == seen
        probe.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await probe
        release.set()
        gateway.play = gateway.good
        response = await device.router.answer(device.request("third"))
        assert response.where is Where.CLOUD
        assert device.cloud.breaker is State.CLOSED
        story = device.ring.get("probe")
        assert story is not None
        assert story.outcome == "cancelled"

    in_device(test)


def test_an_old_token_is_replaced_once() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="cloud-only")

        async def play(request):  # type: ignore[no-untyped-def]
            if request.headers["Authorization"] == "Bearer t0":
                gateway.status(401)
                return await gateway.play(request)
            return await gateway.good(request)

        async def again(request):  # type: ignore[no-untyped-def]
            response = await play(request)
            gateway.play = again
            return response

        gateway.play = again
        response = await device.router.answer(device.request())
        assert response.where is Where.CLOUD
        assert device.tokens.forgotten == ["t0"]
        assert device.cloud.breaker is State.CLOSED

    in_device(test)


def test_what_the_cloud_does_not_have_is_the_devices_to_answer() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        waiting = await device.saturate()
        gateway.status(404)
        with pytest.raises(Overloaded):
            await device.router.answer(device.request(within=2))
        await shut(device, waiting)

    in_device(test)


def test_an_idle_device_that_seems_too_slow_proves_itself_wrong() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.costs(50.0)
        response = await device.router.answer(device.request("away", within=1))
        assert (response.where, response.why) == (Where.CLOUD, "local-saturated")
        while response.where is Where.CLOUD:
            response = await device.router.answer(device.request("again", within=1))
            await asyncio.sleep(0.005)
        assert response.why == "local-meets-deadline"
        labels = {"model": MODEL, "version": VERSION, "where": "local", "outcome": "ok"}
        assert device.count("tideline_requests_total", **labels) == 1

    in_device(test)


def test_a_device_that_is_late_without_its_cloud_says_so_before_and_after_asking_it() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(deadline_ms=1000)
        await device.router.answer(device.request("warm"))
        device.costs(60.0)
        gateway.status(503)
        told = set()
        for i in range(8):
            with pytest.raises(Overloaded) as caught:
                await device.router.answer(device.request(f"s{i}"))
            assert caught.value.retry_after is not None
            told.add(caught.value.code)
        assert told == {"cloud-unreachable"}
        assert len(gateway.requests) == 5
        assert device.cloud.breaker is State.OPEN

    in_device(test)


def test_a_full_device_keeps_time_to_answer_after_a_cloud_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        full = LocalState(expected_wait=0.2, service=0.05, full=True)
        monkeypatch.setattr(device.router._attempts, "predicted", lambda request, load: full)
        release = gateway.hang()
        response = await device.router.answer(device.request("r1", within=2.0))
        release.set()
        assert (response.where, response.why) == (Where.LOCAL, "cloud-failed")

    in_device(test)
