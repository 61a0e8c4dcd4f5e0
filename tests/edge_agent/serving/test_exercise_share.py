"""A small share of what the device answers goes to the cloud, and comes home where the cloud fails."""

from edge_agent.decide.breaker import State
from edge_agent.decide.exercise import Credit
from shared.serving.answer import Where
from tests.edge_agent.serving.fake_gateway import FakeGateway
from tests.edge_agent.serving.test_hedges import Mute
from tests.edge_agent.serving.world import MODEL, Device, in_device


def test_a_share_of_what_the_device_answers_goes_to_the_cloud_and_says_so() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.draw = 0.0
        device.policy(exercise_share=0.05)
        places = [(await device.router.answer(device.request(f"r{i}", within=30))).where for i in range(100)]
        gone = [f"r{i}" for i, where in enumerate(places) if where is Where.CLOUD]
        assert 4 <= len(gone) == len(gateway.requests) <= 5
        story = device.ring.get(gone[0])
        assert story is not None
        assert (story.decision, story.reason, story.where) == ("cloud", "exercise", "cloud")
        assert device.count("tideline_route_total", where="cloud", reason="exercise") == len(gone)
        assert device.cloud.state(MODEL, device.router._rules.of(MODEL)).estimate is not None
        # Every one of them was a first attempt: no retry was spent.
        assert device.cloud._retries.tokens == 10.0

    in_device(test)


def test_nothing_goes_on_a_metered_link_nor_of_what_is_private() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.draw = 0.0
        device.policy(exercise_share=0.05)
        for i in range(60):
            await device.router.answer(device.request(f"p{i}", within=30, privacy="local-only"))
        device.cloud._metered = True
        for i in range(60):
            await device.router.answer(device.request(f"m{i}", within=30))
        device.cloud._metered = False
        device.policy(exercise_share=0)
        for i in range(60):
            await device.router.answer(device.request(f"o{i}", within=30))
        assert gateway.requests == []

    in_device(test)


def test_an_exercise_that_fails_is_answered_here_and_a_probe_closes_the_breaker() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.draw = 0.0
        device.policy()
        await device.router.answer(device.request("warm"))
        gateway.status(503)
        for i in range(5):
            device.cloud._credit = Credit(1.0)
            response = await device.router.answer(device.request(f"x{i}", within=30))
            assert (response.where, response.why) == (Where.LOCAL, "cloud-failed")
        assert device.cloud.breaker is State.OPEN
        gateway.play = gateway.good
        where = Where.LOCAL
        while where is Where.LOCAL:
            # Until the breaker may be probed, nothing is eligible.
            device.cloud._credit = Credit(1.0)
            where = (await device.router.answer(device.request("y", within=30))).where
        assert device.cloud.breaker is State.CLOSED

    in_device(test)


def test_an_exercise_against_a_mute_cloud_is_answered_here_in_time() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.draw = 0.0
        device.policy()
        await device.router.answer(device.request("warm"))
        async with Mute().listening() as mute:
            device.enrol(mute.url)
            device.cloud._credit = Credit(1.0)
            device.costs(0.4)
            response = await device.router.answer(device.request("x", within=3.0))
            assert (response.where, response.why) == (Where.LOCAL, "cloud-failed")
            assert mute.accepted == 1

    in_device(test)
