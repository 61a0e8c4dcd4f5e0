import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide import pace, timeouts
from edge_agent.decide.hedging import beside_cloud, beside_local, patience
from edge_agent.decide.pace import KEPT, LEAST, Pace
from edge_agent.decide.routing import Ask, Cloud, CloudState, Local, LocalState, Reason, Refuse
from shared.protocol.policy import Policy, Rules, policy_of, rules_for

NOW = 1000.0
UP = CloudState(permitted=True, estimate=0.1)
IDLE = LocalState(expected_wait=0.0, service=0.01)


def rules(**more: object) -> Rules:
    return rules_for(policy_of({"hedge_after_ms": 40, **more}), "any")


def ask(left: float = 1.0, *tags: str) -> Ask:
    return Ask(deadline=NOW + left, privacy=frozenset(tags))


def test_how_long_the_first_place_has_to_itself() -> None:
    assert patience(ask(), rules(), p95=0.3, repeatable=True, now=NOW) == 0.04
    assert patience(ask(), rules(hedge_after_ms="p95"), p95=0.3, repeatable=True, now=NOW) == 0.3
    assert patience(ask(), rules(hedge_after_ms="p95"), p95=None, repeatable=True, now=NOW) == 0.5
    # After the deadline is too late.
    assert patience(ask(0.2), rules(hedge_after_ms="p95"), p95=0.3, repeatable=True, now=NOW) is None
    assert patience(ask(), rules_for(Policy(), "any"), p95=0.3, repeatable=True, now=NOW) is None
    assert patience(ask(), rules(), p95=0.3, repeatable=False, now=NOW) is None
    assert patience(ask(1.0, "local-only"), rules(), p95=0.3, repeatable=True, now=NOW) is None
    for mode in ("local-only", "cloud-only"):
        assert patience(ask(), rules(mode=mode), p95=0.3, repeatable=True, now=NOW) is None


@pytest.mark.parametrize(
    ("cloud", "reason"),
    [
        (UP, None),
        (CloudState(permitted=False), Reason.CLOUD_UNREACHABLE),
        (CloudState(permitted=True, budget_left=0), Reason.BUDGET_EXHAUSTED),
        (CloudState(permitted=True, retries_left=False), Reason.RETRIES_EXHAUSTED),
        (CloudState(permitted=True, admitted=False), Reason.CLOUD_SATURATED),
        (CloudState(permitted=True, estimate=1.5), Reason.BOTH_LATE),
    ],
)
def test_beside_the_device_within_everything_a_second_attempt_is_held_to(
    cloud: CloudState, reason: Reason | None
) -> None:
    verdict = beside_local(ask(), cloud, rules(), now=NOW)
    assert verdict == Cloud(Reason.HEDGED) if reason is None else isinstance(verdict, Refuse)
    assert verdict.reason is (reason or Reason.HEDGED)


@pytest.mark.parametrize(
    ("local", "cloud", "reason"),
    [
        (IDLE, UP, Reason.HEDGED),
        (None, UP, Reason.LOCAL_ABSENT),
        (LocalState(expected_wait=0.0, service=0.01, full=True), UP, Reason.LOCAL_SATURATED),
        (LocalState(expected_wait=2.0, service=0.01), UP, Reason.BOTH_LATE),
        (IDLE, CloudState(permitted=True, retries_left=False), Reason.RETRIES_EXHAUSTED),
        # What bars the cloud is no bar for the device.
        (IDLE, CloudState(permitted=False, budget_left=0), Reason.HEDGED),
    ],
)
def test_beside_the_cloud_where_the_device_can_still_make_it(
    local: LocalState | None, cloud: CloudState, reason: Reason
) -> None:
    verdict = beside_cloud(ask(), local, cloud, rules(), now=NOW)
    assert verdict.reason is reason
    assert isinstance(verdict, Local) == (reason is Reason.HEDGED)


@given(
    st.frozensets(st.sampled_from(["local-only", "medical", "x"])),
    st.sampled_from(["local-only", "cloud-only", "local-first", "fastest", "cascade"]),
    st.floats(-1, 10),
    st.builds(
        CloudState,
        permitted=st.booleans(),
        estimate=st.none() | st.floats(0, 5),
        budget_left=st.none() | st.integers(0, 2),
        retries_left=st.booleans(),
    ),
)
def test_a_private_request_is_never_hedged_nor_anything_late(
    tags: frozenset[str], mode: str, left: float, cloud: CloudState
) -> None:
    asked, own = Ask(deadline=NOW + left, privacy=tags), rules(mode=mode, privacy_tags=["medical"])
    wait = patience(asked, own, p95=None, repeatable=True, now=NOW)
    beside = beside_local(asked, cloud, own, now=NOW)
    if tags & {"local-only", "medical"} or mode == "local-only":
        assert wait is None
        assert isinstance(beside, Refuse)
    if isinstance(beside, Cloud):
        assert cloud.permitted
        assert cloud.retries_left
        assert cloud.budget_left != 0
        assert cloud.completion < left
    if wait is not None:
        assert wait < left


@given(st.lists(st.floats(0, 100), max_size=200))
def test_the_pace_is_that_of_the_newest_answers(seconds: list[float]) -> None:
    seen = Pace()
    for each in seconds:
        seen = pace.observed(seen, each)
    newest = seconds[-KEPT:]
    assert list(seen.seconds) == newest
    p95 = pace.p95(seen)
    if len(newest) < LEAST:
        assert p95 is None
    else:
        assert p95 is not None
        assert sum(each <= p95 for each in newest) >= 0.95 * len(newest)
        assert sum(each < p95 for each in newest) < 0.95 * len(newest)


@given(st.none() | st.floats(1e-6, 1e6))
def test_a_timeout_is_always_set_and_shorter_than_what_is_left(left: float | None) -> None:
    seconds = timeouts.timeout(left)
    assert 0 < seconds <= timeouts.LONGEST_S
    if left is not None:
        assert seconds < left


@given(st.floats(1e-3, 100), st.none() | st.floats(0, 100))
def test_the_cloud_gets_half_of_the_time_at_least_and_the_device_what_it_needs(
    left: float, completion: float | None
) -> None:
    until = timeouts.with_reserve(NOW + left, completion, now=NOW)
    assert until - NOW >= left / 2 - 1e-9
    assert until <= NOW + left
    if until < NOW + left:
        assert completion is not None
        assert until + completion <= NOW + left + 1e-9
