"""`on_overload = "smaller-model"`: another model of the same task answers on the device where nobody else can in time."""

from pathlib import Path

import msgspec
import pytest

from shared.bundle.manifest import TaskKind
from shared.protocol.desired import Generation, ModelRef, check_generation
from shared.protocol.errors import Overloaded, Refused, Transient
from shared.protocol.policy import policy_of
from shared.protocol.topics import Header
from shared.serving.answer import Where
from shared.serving.decide.cost import Cost
from shared.serving.faces.context import headers_of
from tests.edge_agent.serving.fake_gateway import FakeGateway
from tests.edge_agent.serving.test_answers_on_overload import busy_cloud
from tests.edge_agent.serving.world import MODEL, TENANT, VERSION, Device, in_device, manifest, shut

SMALL, SMALL_VERSION = "mood-small", "9.0.0"
POLICY = {"on_overload": "smaller-model", "models": {MODEL: {"smaller_model": SMALL}}}


async def load_small(device: Device, *, task: TaskKind = TaskKind.TEXT_CLASSIFICATION) -> None:
    device.other(SMALL_VERSION, score=0.7)
    device.labels[SMALL_VERSION] = "fair"
    bundle = manifest(SMALL_VERSION, name=SMALL, task=task)
    await device.engine.load(TENANT, bundle, "e" * 64, Path("/nowhere") / SMALL_VERSION, "v")
    device.engine.activate(TENANT, {MODEL: VERSION, SMALL: SMALL_VERSION})


def test_the_smaller_model_answers_where_both_would_be_late_and_the_answer_says_so() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        await load_small(device)
        device.policy(**POLICY)
        assert (await device.router.answer(device.request("idle"))).model == MODEL
        waiting = await device.saturate()
        busy_cloud(device)
        response = await device.router.answer(device.request("r1", within=1))
        assert (response.where, response.why, response.id) == (Where.LOCAL, "smaller-model", "r1")
        assert headers_of(response)[Header.MODEL] == f"{SMALL}@{SMALL_VERSION}/v"
        story = device.ring.get("r1")
        assert story is not None
        assert (story.model, story.decision, story.reason) == (MODEL, "none", "both-late")
        assert [(each.where, each.reason, each.outcome) for each in story.attempts] == [
            ("local", "smaller-model", "ok")
        ]
        assert (story.where, story.outcome, story.answered_by) == ("local", "ok", f"{SMALL}@{SMALL_VERSION}/v")
        assert device.count("tideline_shed_total", reason="both-late") == 0
        counts, _ = device.interval.take()
        assert [(each.where, each.count) for each in counts if each.reason == "smaller-model"] == [("local", 1)]
        assert gateway.requests == []
        await shut(device, waiting)

    in_device(test)


def test_also_for_what_is_private_and_after_the_device_s_own_admission_shed_it() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        await load_small(device)
        device.policy(**POLICY)
        waiting = await device.saturate()
        response = await device.router.answer(device.request("r1", within=1, privacy="local-only"))
        assert (response.model, response.why) == (SMALL, "smaller-model")
        story = device.ring.get("r1")
        assert story is not None
        assert [(each.reason, each.outcome) for each in story.attempts] == [
            ("privacy", "shed"),
            ("smaller-model", "ok"),
        ]
        assert gateway.requests == []
        await shut(device, waiting)

    in_device(test)


@pytest.mark.parametrize(
    "policy",
    [
        {"on_overload": "smaller-model"},
        {"on_overload": "shed", "smaller_model": SMALL},
        {"on_overload": "smaller-model", "smaller_model": MODEL},
        {"on_overload": "smaller-model", "smaller_model": "unheard-of"},
    ],
)
def test_without_one_it_sheds(policy: dict[str, object]) -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        await load_small(device)
        device.policy(**policy)
        waiting = await device.saturate()
        busy_cloud(device)
        with pytest.raises(Overloaded, match="both-late"):
            await device.router.answer(device.request("r1", within=1))
        assert device.count("tideline_shed_total", reason="both-late") == 1
        await shut(device, waiting)

    in_device(test)


def test_never_late_never_of_another_task_never_where_the_device_does_not_answer() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        await load_small(device, task=TaskKind.TEXT_EMBEDDING)
        device.policy(**POLICY)
        waiting = await device.saturate()
        busy_cloud(device)
        with pytest.raises(Overloaded):
            await device.router.answer(device.request("task", within=1))
        await device.engine.unload(TENANT, SMALL, SMALL_VERSION)
        await load_small(device)
        gateway.status(503)
        device.policy(**{**POLICY, "mode": "cloud-only"})
        with pytest.raises((Overloaded, Transient)):
            await device.router.answer(device.request("mode", within=100))
        device.policy(**POLICY)
        runs = len(device.others[SMALL_VERSION].runs)
        device.engine._models[TENANT, SMALL, SMALL_VERSION].cost = Cost(
            per_token=900.0 / 128, observations=50, mean=900.0
        )
        with pytest.raises(Overloaded):
            await device.router.answer(device.request("late", within=1))
        assert len(device.others[SMALL_VERSION].runs) == runs
        await shut(device, waiting)

    in_device(test)


def test_a_smaller_model_that_fails_is_not_what_the_caller_is_told_of() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        await load_small(device)
        device.policy(**POLICY)
        waiting = await device.saturate()
        busy_cloud(device)

        def broken(feeds: object) -> dict[str, object]:
            raise ValueError("broken")

        device.others[SMALL_VERSION]._script = broken  # type: ignore[assignment]
        with pytest.raises(Overloaded, match="both-late"):
            await device.router.answer(device.request("r1", within=1))
        story = device.ring.get("r1")
        assert story is not None
        assert [each.reason for each in story.attempts] == ["smaller-model"]
        assert story.attempts[0].outcome != "ok"
        await shut(device, waiting)

    in_device(test)


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        ({"smaller_model": SMALL}, "policy.smaller_model"),
        ({"models": {MODEL: {"smaller_model": SMALL}}}, f"policy.models.{MODEL}.smaller_model"),
    ],
)
def test_a_generation_that_lacks_it_is_refused_as_a_whole(policy: dict[str, object], path: str) -> None:
    generation = Generation(
        tenant=TENANT,
        device="lamp",
        epoch=1,
        number=1,
        issued_at=0.0,
        expires_at=1.0,
        models=(ModelRef(name=MODEL, version=VERSION, digest="d" * 64),),
        policy=policy_of(policy),
    )
    with pytest.raises(Refused) as refused:
        check_generation(generation)
    assert (refused.value.field, refused.value.value, refused.value.allowed) == (path, SMALL, MODEL)
    small = ModelRef(name=SMALL, version=SMALL_VERSION, digest="e" * 64)
    check_generation(msgspec.structs.replace(generation, models=(*generation.models, small)))
