"""The planner of desired state: what follows from a snapshot, and that applying a plan leaves nothing to plan."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.decide.generation import (
    Assigned,
    Content,
    Held,
    Plan,
    PolicyDocument,
    Reason,
    Snapshot,
    Wish,
    content_in,
    groups_in,
    plan,
    why_text,
)
from shared.protocol.desired import Generation, Limits, ModelRef, Order, check_generation
from shared.protocol.policy import Mode, Override, Policy
from shared.serving.arrangement import Arrangement
from shared.serving.decide.ways import Way

VALID = 30 * 86400.0
DIGESTS = {(name, version): f"{name}-{version}" for name in ("m", "n", "o") for version in ("1.0.0", "2.0.0")}


def snapshot(**changes: object) -> Snapshot:
    base = Snapshot(
        tenant="a",
        epoch=1,
        devices=("d1",),
        memberships={"d1": ("g",)},
        assignments=(Assigned(group="g", models=(Wish(name="m", version="1.0.0"),)),),
        digests=DIGESTS,
        policies={},
        held={},
    )
    return msgspec.structs.replace(base, **changes)


def applied(before: Snapshot, made: Plan) -> Snapshot:
    held = dict(before.held)
    for step in made.steps:
        # As the loops do: the content comes back from the stored payload, the groups from the stored text.
        payload = msgspec.json.decode(msgspec.json.encode(step.generation), type=Generation)
        held[payload.device] = Held(
            order=payload.order,
            content=content_in(payload),
            groups=groups_in(why_text(step.reason, step.groups)),
            expires_at=payload.expires_at,
        )
    return msgspec.structs.replace(before, held=held)


def only(before: Snapshot, *, now: float = 0.0) -> tuple[Generation, Reason]:
    (step,) = plan(before, now=now, valid=VALID).steps
    return step.generation, step.reason


def test_a_new_assignment_makes_the_first_generation() -> None:
    made, reason = only(snapshot())
    assert made == Generation(
        tenant="a",
        device="d1",
        epoch=1,
        number=1,
        issued_at=0.0,
        expires_at=VALID,
        models=(ModelRef(name="m", version="1.0.0", digest="m-1.0.0"),),
        policy=Policy(),
    )
    assert reason is Reason.NEW_ASSIGNMENT


def test_each_change_names_its_reason() -> None:
    start = applied(snapshot(), plan(snapshot(), now=0.0, valid=VALID))
    one = start.assignments[0]
    n = Assigned(group="h", models=(Wish(name="n", version="1.0.0"),))
    document = PolicyDocument(policy=Policy(mode=Mode.FASTEST), revision=3)
    cases = {
        Reason.MODELS_CHANGED: {
            "assignments": (msgspec.structs.replace(one, models=(Wish(name="m", version="2.0.0"),)),)
        },
        Reason.MEMBERSHIP_CHANGED: {"assignments": (one, n), "memberships": {"d1": ("g", "h")}},
        Reason.POLICY_CHANGED: {
            "assignments": (msgspec.structs.replace(one, policy="p"),),
            "policies": {"p": document},
        },
        Reason.LIMITS_CHANGED: {"assignments": (msgspec.structs.replace(one, limits=Limits(threads=1)),)},
        Reason.UNASSIGNED: {"memberships": {}},
        Reason.EPOCH_RAISED: {"epoch": 2},
    }
    for expected, change in cases.items():
        made, reason = only(msgspec.structs.replace(start, **change), now=1.0)
        assert reason is expected
        assert made.order == (Order(2, 1) if expected is Reason.EPOCH_RAISED else Order(1, 2))
    gone = applied(
        msgspec.structs.replace(start, memberships={}),
        plan(msgspec.structs.replace(start, memberships={}), now=1.0, valid=VALID),
    )
    assert plan(gone, now=2.0, valid=VALID).steps == ()
    assert only(msgspec.structs.replace(gone, memberships={"d1": ("g",)}), now=2.0)[1] is Reason.NEW_ASSIGNMENT


def test_it_is_signed_anew_before_it_expires_and_not_earlier() -> None:
    start = applied(snapshot(), plan(snapshot(), now=0.0, valid=VALID))
    assert plan(start, now=VALID * 0.66, valid=VALID).steps == ()
    made, reason = only(start, now=VALID * 0.67)
    assert (made.number, reason) == (2, Reason.REISSUED)


def test_the_higher_priority_wins_and_equal_ones_go_by_name() -> None:
    low = Assigned(
        group="z",
        models=(Wish(name="m", version="1.0.0"), Wish(name="n", version="1.0.0")),
        limits=Limits(threads=1, disk_bytes=5),
    )
    high = Assigned(group="y", models=(Wish(name="m", version="2.0.0"),), priority=5, limits=Limits(threads=9))
    same = Assigned(group="x", models=(Wish(name="n", version="2.0.0"),), policy="p")
    before = snapshot(
        memberships={"d1": ("x", "y", "z")},
        assignments=(low, high, same),
        policies={"p": PolicyDocument(policy=Policy(), revision=1)},
    )
    made, _ = only(before)
    assert [(model.name, model.version) for model in made.models] == [("m", "2.0.0"), ("n", "2.0.0")]
    assert made.limits == Limits(threads=9, disk_bytes=5)
    assert (made.policy_name, made.policy_revision) == ("p", 1)


def test_one_group_may_split_between_two_versions() -> None:
    split = Policy(models={"m": Override(split={"1.0.0": 80, "2.0.0": 20})})
    wishes = (Wish(name="m", version="2.0.0"), Wish(name="m", version="1.0.0"))
    before = snapshot(
        assignments=(Assigned(group="g", models=wishes, policy="p"),),
        policies={"p": PolicyDocument(policy=split, revision=1)},
    )
    assert [model.version for model in only(before)[0].models] == ["1.0.0", "2.0.0"]


def test_contradictions_are_problems_of_their_devices_only() -> None:
    absent = Policy(models={"o": Override(mode=Mode.CLOUD_ONLY)})
    before = snapshot(
        devices=("d1", "d2", "d3", "d4"),
        memberships={"d1": ("g",), "d2": ("unpublished",), "d3": ("no-policy",), "d4": ("absent-model",)},
        assignments=(
            Assigned(group="g", models=(Wish(name="m", version="1.0.0"),)),
            Assigned(group="unpublished", models=(Wish(name="m", version="3.0.0"),)),
            Assigned(group="no-policy", models=(), policy="none"),
            Assigned(group="absent-model", models=(Wish(name="m", version="1.0.0"),), policy="p"),
        ),
        policies={"p": PolicyDocument(policy=absent, revision=1)},
    )
    made = plan(before, now=0.0, valid=VALID)
    assert [step.generation.device for step in made.steps] == ["d1"]
    assert [(problem.device, problem.field) for problem in made.problems] == [
        ("d2", "assignments.unpublished.models"),
        ("d3", "assignments.no-policy.policy"),
        ("d4", "policy.models.o"),
    ]


def test_a_control_plane_behind_its_own_generations_never_goes_back() -> None:
    held = Held(order=Order(7, 3), content=Content(), groups=("g",), expires_at=VALID)
    assert only(snapshot(held={"d1": held}))[0].order == Order(7, 4)


slugs = st.sampled_from(["g1", "g2", "g3"])
wishes = st.builds(
    Wish,
    name=st.sampled_from(["m", "n", "o"]),
    version=st.sampled_from(["1.0.0", "2.0.0", "3.0.0"]),
    variant=st.sampled_from([None, "cpu-int8"]),
)
policies = st.builds(
    PolicyDocument,
    policy=st.builds(
        Policy,
        mode=st.sampled_from(Mode),
        deadline_ms=st.sampled_from([1.5, 1000.0]),
        models=st.dictionaries(st.sampled_from(["m", "n"]), st.builds(Override, deadline_ms=st.just(5.0)), max_size=1),
    ),
    revision=st.integers(1, 9),
)
assigned = st.builds(
    Assigned,
    group=slugs,
    models=st.lists(wishes, max_size=3, unique_by=lambda wish: (wish.name, wish.version)).map(tuple),
    policy=st.sampled_from([None, "p1", "p2"]),
    limits=st.builds(Limits, threads=st.sampled_from([None, 1, 2])),
    priority=st.integers(-1, 1),
)
snapshots = st.builds(
    Snapshot,
    tenant=st.just("a"),
    epoch=st.integers(1, 3),
    devices=st.lists(st.sampled_from(["d1", "d2", "d3", "d4"]), unique=True).map(tuple),
    memberships=st.dictionaries(st.sampled_from(["d1", "d2", "d3"]), st.lists(slugs, unique=True).map(tuple)),
    assignments=st.lists(assigned, max_size=3, unique_by=lambda one: one.group).map(tuple),
    digests=st.just(DIGESTS),
    policies=st.dictionaries(st.sampled_from(["p1", "p2"]), policies),
    held=st.just({}),
)


@given(snapshots, snapshots, st.floats(0, 1e9), st.floats(1, VALID * 0.6))
def test_planning_is_deterministic_idempotent_and_only_goes_forward(
    first: Snapshot, second: Snapshot, now: float, later: float
) -> None:
    made = plan(first, now=now, valid=VALID)
    assert made == plan(first, now=now, valid=VALID)
    shuffled = msgspec.structs.replace(
        first,
        devices=first.devices[::-1],
        assignments=first.assignments[::-1],
        memberships={name: groups[::-1] for name, groups in first.memberships.items()},
    )
    assert plan(shuffled, now=now, valid=VALID) == made
    after = applied(first, made)
    again = plan(after, now=now + later, valid=VALID)
    assert again.steps == ()
    assert again.problems == made.problems
    # Then everything changes: every generation is above the one before, holds together, and settles again.
    moved = msgspec.structs.replace(second, held=after.held)
    next_plan = plan(moved, now=now + later, valid=VALID)
    for step in next_plan.steps:
        check_generation(step.generation)
        before = after.held.get(step.generation.device)
        assert before is None or step.generation.order > before.order
    assert plan(applied(moved, next_plan), now=now + later, valid=VALID).steps == ()


def test_each_device_is_told_what_was_found_on_its_kind() -> None:
    found = {
        "small": Way(variant="cpu-int8", arrangement=Arrangement(lanes=2)),
        "large": Way(variant="cpu-fp32", arrangement=Arrangement(lanes=4, threads=4, runtime="openvino")),
    }
    wish = Wish(name="m", version="1.0.0", tuned=found)
    start = snapshot(
        devices=("a", "b", "c", "d"),
        memberships=dict.fromkeys("abcd", ("g",)),
        assignments=(Assigned(group="g", models=(wish,)),),
        hardware={"a": "small", "b": "large", "c": "other"},
    )
    made = plan(start, now=0.0, valid=VALID)
    models = {step.generation.device: step.generation.models[0] for step in made.steps}
    assert {name: (model.variant, model.arrangement) for name, model in models.items()} == {
        "a": ("cpu-int8", found["small"].arrangement),
        "b": ("cpu-fp32", found["large"].arrangement),
        "c": (None, None),
        "d": (None, None),
    }
    after = applied(start, made)
    assert plan(after, now=1.0, valid=VALID).steps == ()
    # Another finding is another generation for those it is about, and nobody else.
    newer = msgspec.structs.replace(wish, tuned={**found, "small": Way(variant="cpu-fp32")})
    changed = msgspec.structs.replace(after, assignments=(Assigned(group="g", models=(newer,)),))
    assert [(step.generation.device, step.reason) for step in plan(changed, now=1.0, valid=VALID).steps] == [
        ("a", Reason.MODELS_CHANGED)
    ]


def test_a_variant_that_was_named_goes_before_one_that_was_found() -> None:
    wish = Wish(name="m", version="1.0.0", variant="cpu-int8", tuned={"box": Way(variant="cpu-fp32")})
    start = snapshot(assignments=(Assigned(group="g", models=(wish,)),), hardware={"d1": "box"})
    (model,) = only(start)[0].models
    assert (model.variant, model.arrangement) == ("cpu-int8", None)


def test_a_generation_of_before_there_was_tuning_is_not_made_again() -> None:
    """Its stored text knows no arrangement; what it is about is the same."""
    start = snapshot()
    generation, _ = only(start)
    text = msgspec.json.decode(msgspec.json.encode(generation))
    for model in text["models"]:
        del model["arrangement"]
    held = Held(
        order=generation.order,
        content=content_in(msgspec.convert(text, Generation)),
        groups=("g",),
        expires_at=generation.expires_at,
    )
    assert plan(msgspec.structs.replace(start, held={"d1": held}), now=1.0, valid=VALID).steps == ()
