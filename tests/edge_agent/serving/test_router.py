import pytest

from shared.protocol.errors import Corrupt, Overloaded, Refused, Transient, Unavailable
from shared.protocol.pressure import ModelPressure, Pressure
from shared.protocol.topics import Header
from shared.serving.answer import Label, Where
from tests.edge_agent.serving.world import MODEL, VERSION, Device, FakeGateway, header, in_device, shut


def test_an_idle_device_answers_itself_and_says_why() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        response = await device.router.answer(device.request())
        assert (response.where, response.why, response.id) == (Where.LOCAL, "local-meets-deadline", "r1")
        assert gateway.requests == []
        story = device.ring.get("r1")
        assert story is not None
        assert (story.where, story.outcome, story.decision, story.reason) == (
            "local",
            "ok",
            "local",
            "local-meets-deadline",
        )
        assert story.deadline_ms == pytest.approx(1000.0)
        assert device.count("tideline_route_total", where="local", reason="local-meets-deadline") == 1
        (count,), _ = device.interval.take()
        assert (count.model, count.version, count.where, count.outcome, count.count) == (
            MODEL,
            VERSION,
            "local",
            "ok",
            1,
        )

    in_device(test)


def test_a_saturated_device_overflows_with_one_id_and_what_is_left_of_the_deadline() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        waiting = await device.saturate()
        response = await device.router.answer(device.request("over", within=5, trace="00-ab-cd-01", priority=2))
        assert (response.where, response.why) == (Where.CLOUD, "local-saturated")
        assert isinstance(response.results[0], Label)
        assert response.results[0].label == "cloudy"
        assert response.version == VERSION
        (sent,) = gateway.requests
        assert sent["path"] == f"/v2/models/{MODEL}/versions/{VERSION}/infer"
        assert header(sent) == "over"
        assert 0 < float(header(sent, Header.DEADLINE_MS)) <= 5000
        assert header(sent, "Authorization") == "Bearer t0"
        assert header(sent, Header.PRIORITY) == "2"
        assert header(sent, Header.TRACEPARENT) == "00-ab-cd-01"
        assert device.count("tideline_route_total", where="cloud", reason="local-saturated") == 1
        labels = {"model": MODEL, "version": VERSION, "where": "cloud", "outcome": "ok"}
        assert device.count("tideline_requests_total", **labels) == 1
        story = device.ring.get("over")
        assert story is not None
        assert story.predicted.local_wait_ms is not None
        assert story.predicted.local_wait_ms > 5000
        assert story.generation is None
        await shut(device, waiting)

    in_device(test)


def test_private_requests_stay_even_where_they_are_late() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(privacy_tags=["medical"])
        waiting = await device.saturate()
        for tag in ("local-only", "Medical"):
            with pytest.raises(Overloaded):
                await device.router.answer(device.request(tag, within=1, privacy=tag))
        assert gateway.requests == []
        story = device.ring.get("Medical")
        assert story is not None
        assert (story.private, story.reason, story.policy_revision, story.outcome) == (True, "privacy", 3, "shed")
        await shut(device, waiting)

    in_device(test)


def test_both_late_is_shed_with_a_time_to_come_back() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        waiting = await device.saturate()
        device.cloud.announced(
            Pressure(
                models={MODEL: ModelPressure(expected_wait_s=60.0, admit_fraction=1.0)},
                valid_until=device.clock.wall() + 60,
            )
        )
        with pytest.raises(Overloaded) as caught:
            await device.router.answer(device.request(within=1))
        assert caught.value.code == "both-late"
        assert caught.value.retry_after > 0
        assert gateway.requests == []
        assert device.count("tideline_shed_total", reason="both-late") == 1
        _, shed = device.interval.take()
        assert shed == {"both-late": 1}
        await shut(device, waiting)

    in_device(test)


def test_a_model_that_is_not_here_goes_to_the_cloud() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        response = await device.router.answer(device.request())
        assert (response.where, response.why, response.version) == (Where.CLOUD, "local-absent", "9.9.9")
        with pytest.raises(Refused, match="unknown model"):
            await device.router.answer(device.request(privacy="local-only"))
        gateway.status(404)
        with pytest.raises(Refused):
            await device.router.answer(device.request("n", model="made-up"))
        labels = {"model": "unknown", "version": "unknown", "where": "cloud", "outcome": "refused"}
        assert device.count("tideline_requests_total", **labels) == 1

    in_device(test, load=False)


def test_without_a_cloud_an_unknown_model_is_not_found() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        with pytest.raises(Refused, match="unknown model"):
            await device.router.answer(device.request(model="other"))
        assert (await device.router.answer(device.request())).where is Where.LOCAL
        device.policy(mode="cloud-only")
        with pytest.raises(Transient):
            await device.router.answer(device.request())

    in_device(test, enrol=False)


def test_budget_and_lease_keep_requests_at_home() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="cloud-only", cloud_budget={"per_day": 2})
        for i in range(2):
            assert (await device.router.answer(device.request(f"p{i}"))).where is Where.CLOUD
        with pytest.raises(Overloaded) as caught:
            await device.router.answer(device.request("p2"))
        assert caught.value.code == "budget-exhausted"
        device.policy(mode="cloud-only", offline_lease_s=10)
        device.silence = 11.0
        with pytest.raises(Transient, match="policy-stale"):
            await device.router.answer(device.request("p3"))

    in_device(test)


def test_a_cascade_asks_the_cloud_when_unsure_and_keeps_its_answer_when_that_fails() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(mode="cascade", confidence_below=0.8)
        device.score = 0.9
        assert (await device.router.answer(device.request("sure"))).where is Where.LOCAL
        device.score = 0.5
        response = await device.router.answer(device.request("unsure"))
        assert (response.where, response.why) == (Where.CLOUD, "low-confidence")
        gateway.status(500)
        response = await device.router.answer(device.request("kept"))
        assert response.where is Where.LOCAL
        assert (await device.router.answer(device.request("mine", privacy="local-only"))).where is Where.LOCAL
        story = device.ring.get("kept")
        assert story is not None
        assert [(a.where, a.outcome) for a in story.attempts] == [("local", "ok"), ("cloud", "unreachable")]
        assert story.where == "local"

    in_device(test)


def test_an_expired_request_is_not_begun() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        runs = len(device.session.runs)
        with pytest.raises(Transient) as caught:
            await device.router.answer(device.request(within=-1))
        assert caught.value.why is Unavailable.DEADLINE
        assert len(device.session.runs) == runs

    in_device(test)


def test_streams_take_the_same_way() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        pieces = [piece async for piece in device.router.stream(device.request("s1"))]
        assert [(piece.where, piece.why) for piece in pieces] == [(Where.LOCAL, "local-meets-deadline")]
        device.failing = Corrupt("broken")
        pieces = [piece async for piece in device.router.stream(device.request("s2"))]
        assert [(piece.where, piece.why) for piece in pieces] == [(Where.CLOUD, "local-failed")]
        with pytest.raises(Corrupt):
            _ = [piece async for piece in device.router.stream(device.request("s3", privacy="local-only"))]
        story = device.ring.get("s3")
        assert story is not None
        assert story.outcome == "corrupt"

    in_device(test)
