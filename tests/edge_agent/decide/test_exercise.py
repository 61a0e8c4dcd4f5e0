import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide.exercise import Credit, earn, exercise, is_eligible, spend
from edge_agent.decide.routing import Ask, CloudState, Local, LocalState, Reason, route
from shared.protocol.policy import Rules, policy_of, rules_for

NOW = 1000.0
IDLE = LocalState(expected_wait=0.0, service=0.01)
UP = CloudState(permitted=True, estimate=0.1)


def rules(**more: object) -> Rules:
    return rules_for(policy_of(more), "any")


def ask(left: float = 1.0, *tags: str) -> Ask:
    return Ask(deadline=NOW + left, privacy=frozenset(tags))


def eligible(asked: Ask, local: LocalState | None, cloud: CloudState, own: Rules) -> bool:
    return is_eligible(route(asked, local, cloud, own, now=NOW), asked, local, cloud, own, now=NOW)


@pytest.mark.parametrize("mode", ["local-first", "fastest", "cascade"])
def test_what_the_device_would_answer_and_the_cloud_could(mode: str) -> None:
    assert eligible(ask(), IDLE, UP, rules(mode=mode))
    # Nothing is known of the cloud, or its breaker waits for a probe: the more reason to go. Mode `fastest` goes by itself then.
    assert eligible(ask(), IDLE, CloudState(permitted=True), rules(mode=mode)) is (mode != "fastest")


@pytest.mark.parametrize(
    ("asked", "local", "cloud", "policy"),
    [
        (ask(1.0, "local-only"), IDLE, UP, {}),
        (ask(1.0, "medical"), IDLE, UP, {"privacy_tags": ["medical"]}),
        (ask(), IDLE, UP, {"mode": "local-only"}),
        (ask(), IDLE, UP, {"mode": "cloud-only"}),
        (ask(), IDLE, UP, {"exercise_share": 0.0}),
        (ask(), IDLE, CloudState(permitted=False), {}),
        (ask(), IDLE, CloudState(permitted=True, admitted=False), {}),
        (ask(), IDLE, CloudState(permitted=True, budget_left=5), {"cloud_budget": {"per_day": 10}}),
        (ask(), IDLE, CloudState(permitted=True, policy_age=60.0), {"offline_lease_s": 30}),
        (ask(), IDLE, CloudState(permitted=True, estimate=0.99), {}),
        # The device could not answer in time any more once the cloud did not.
        (ask(), LocalState(expected_wait=0.0, service=0.4), UP, {}),
    ],
)
def test_what_does_not_go(asked: Ask, local: LocalState, cloud: CloudState, policy: dict[str, object]) -> None:
    assert not eligible(asked, local, cloud, rules(**policy))


def test_more_than_half_a_budget_is_left_to_those_who_need_it() -> None:
    own = rules(cloud_budget={"per_day": 10})
    assert eligible(ask(), IDLE, msgspec.structs.replace(UP, budget_left=6), own)


@given(st.floats(0.001, 0.05), st.lists(st.floats(0, 1, exclude_max=True), max_size=400))
def test_never_more_than_the_share(share: float, draws: list[float]) -> None:
    own, credit, went = rules(exercise_share=share), Credit(), 0
    for n, u in enumerate(draws, 1):
        credit = earn(credit, own)
        verdict = exercise(credit, IDLE, UP, u=u)
        if verdict is not None:
            assert verdict.reason is Reason.EXERCISE
            credit, went = spend(credit), went + 1
        assert went <= share * n + 1e-9


def test_in_the_long_run_it_is_the_share() -> None:
    own, credit, went = rules(exercise_share=0.02), Credit(), 0
    for n in range(10_000):
        credit = earn(credit, own)
        # Even over [0, 1), in no order.
        if exercise(credit, IDLE, UP, u=(n * 0.6180339887) % 1.0) is not None:
            credit, went = spend(credit), went + 1
    assert 0.018 <= went / 10_000 <= 0.02


def test_those_go_first_that_lose_little_by_it() -> None:
    behind = LocalState(expected_wait=0.0, service=0.01, displaced=0.2)
    assert exercise(Credit(1.0), IDLE, UP, u=0.05) is None
    assert exercise(Credit(1.0), behind, UP, u=0.05) is not None
    assert exercise(Credit(1.5), IDLE, UP, u=0.05) is not None


@given(
    st.frozensets(st.sampled_from(["local-only", "medical", "x"])),
    st.floats(-1, 5),
    st.builds(LocalState, expected_wait=st.floats(0, 3), service=st.floats(0, 3)),
    st.builds(
        CloudState,
        permitted=st.booleans(),
        estimate=st.none() | st.floats(0, 3),
        admitted=st.booleans(),
        budget_left=st.none() | st.integers(0, 5),
    ),
)
def test_a_private_request_never_goes_and_nothing_that_could_be_late(
    tags: frozenset[str], left: float, local: LocalState, cloud: CloudState
) -> None:
    own = rules(privacy_tags=["medical"])
    asked = Ask(deadline=NOW + left, privacy=tags)
    verdict = route(asked, local, cloud, own, now=NOW)
    if is_eligible(verdict, asked, local, cloud, own, now=NOW):
        assert isinstance(verdict, Local)
        assert not tags & {"local-only", "medical"}
        assert cloud.permitted
        assert cloud.admitted
        assert cloud.budget_left != 0
        assert cloud.completion + local.completion < left
