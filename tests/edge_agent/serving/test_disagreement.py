"""A cascade that asked both records both, and whether they say the same."""

import pytest

from shared.protocol.telemetry import Disagreement
from shared.serving.answer import Where
from tests.edge_agent.serving.fake_gateway import FakeGateway
from tests.edge_agent.serving.world import MODEL, VERSION, Device, in_device

POLICY = {"mode": "cascade", "confidence_below": 0.8}


def counted(device: Device, result: str, reason: str) -> float:
    return device.count("tideline_cascade_total", model=MODEL, version=VERSION, result=result, reason=reason)


def test_both_answers_are_recorded_and_their_disagreement_counted_and_sent() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(**POLICY)
        assert (await device.router.answer(device.request("r1"))).where is Where.CLOUD
        story = device.ring.get("r1")
        assert story is not None
        assert story.compared == "differ (label)"
        assert [(each.where, each.by, each.confidence) for each in story.attempts] == [
            ("local", f"{MODEL}@{VERSION}/v", pytest.approx(0.5)),
            ("cloud", f"{MODEL}@{VERSION}/gpu", pytest.approx(0.99)),
        ]
        assert (counted(device, "differ", "label"), counted(device, "agree", "same")) == (1, 0)
        sent = device.interval.take_disagreements()
        assert sent == (
            Disagreement(model=MODEL, version=VERSION, cloud_version=VERSION, result="differ", reason="label", count=1),
        )

    in_device(test)


def test_agreement_is_evidence_too() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.labels[VERSION] = "cloudy"
        await device.engine.unload(device.request().tenant, MODEL, VERSION)
        await device.load()
        device.policy(**POLICY)
        for i in range(2):
            assert (await device.router.answer(device.request(f"r{i}"))).where is Where.CLOUD
        assert (counted(device, "differ", "label"), counted(device, "agree", "same")) == (0, 2)
        (sent,) = device.interval.take_disagreements()
        assert (sent.result, sent.reason, sent.count) == ("agree", "same", 2)

    in_device(test)


def test_where_one_alone_answered_there_is_nothing_to_compare() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(**POLICY)
        device.score = 0.9
        await device.router.answer(device.request("sure"))
        device.score = 0.5
        await device.router.answer(device.request("private", privacy="local-only"))
        gateway.status(503)
        await device.router.answer(device.request("failed"))
        device.policy()
        await device.router.answer(device.request("no-cascade"))
        assert device.interval.take_disagreements() == ()
        for name in ("sure", "private", "failed", "no-cascade"):
            story = device.ring.get(name)
            assert story is not None
            assert (story.compared, story.where) == (None, "local")

    in_device(test)
