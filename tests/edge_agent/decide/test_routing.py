import timeit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide.routing import (
    DOUBT_S,
    Ask,
    Cached,
    Cloud,
    CloudState,
    Escalate,
    Keep,
    Local,
    LocalState,
    Reason,
    Refuse,
    after_cloud_failure,
    after_everyone,
    after_local,
    after_local_failure,
    at_once,
    route,
    tags_of,
)
from shared.protocol.policy import Mode, OnOverload, Policy, Rules, rules_for

NOW = 1000.0
IDLE = LocalState(expected_wait=0.0, service=0.01)
BUSY = LocalState(expected_wait=2.0, service=0.01)
QUEUED = LocalState(expected_wait=0.2, service=0.01)
FULL = LocalState(expected_wait=0.2, service=0.01, full=True)
UP = CloudState(permitted=True, estimate=0.1)
DOWN = CloudState(permitted=False, retry_in=3.0)
FAR = CloudState(permitted=True, estimate=5.0)


def rules(mode: Mode = Mode.LOCAL_FIRST, **more: object) -> Rules:
    return rules_for(msgspec.convert({"mode": mode, **more}, Policy), "any")


def ask(left: float = 1.0, *tags: str) -> Ask:
    return Ask(deadline=NOW + left, privacy=frozenset(tags))


TABLE = [
    # mode, ask, local, cloud, verdict
    (Mode.LOCAL_FIRST, ask(), IDLE, UP, Local(Reason.LOCAL_MEETS_DEADLINE)),
    (Mode.LOCAL_FIRST, ask(), QUEUED, UP, Local(Reason.LOCAL_MEETS_DEADLINE)),
    (Mode.LOCAL_FIRST, ask(), BUSY, UP, Cloud(Reason.LOCAL_SATURATED)),
    (Mode.LOCAL_FIRST, ask(3.0), BUSY, UP, Local(Reason.LOCAL_MEETS_DEADLINE)),
    (Mode.LOCAL_FIRST, ask(), FULL, UP, Cloud(Reason.LOCAL_SATURATED)),
    (Mode.LOCAL_FIRST, ask(), FULL, DOWN, Refuse(Reason.CLOUD_UNREACHABLE, pytest.approx(0.2))),
    (Mode.LOCAL_FIRST, ask(1.0, "local-only"), FULL, UP, Local(Reason.PRIVACY)),
    (Mode.LOCAL_ONLY, ask(), FULL, UP, Local(Reason.MODE)),
    (Mode.FASTEST, ask(), FULL, CloudState(permitted=True, estimate=0.9), Cloud(Reason.CLOUD_FASTER)),
    (Mode.LOCAL_FIRST, ask(), None, UP, Cloud(Reason.LOCAL_ABSENT)),
    (Mode.LOCAL_FIRST, ask(), None, DOWN, Refuse(Reason.CLOUD_UNREACHABLE, 3.0)),
    (Mode.LOCAL_FIRST, ask(), IDLE, DOWN, Local(Reason.LOCAL_MEETS_DEADLINE)),
    (Mode.LOCAL_FIRST, ask(), BUSY, DOWN, Refuse(Reason.CLOUD_UNREACHABLE, pytest.approx(1.01))),
    (Mode.LOCAL_FIRST, ask(), BUSY, FAR, Refuse(Reason.BOTH_LATE, pytest.approx(1.01))),
    (
        Mode.LOCAL_FIRST,
        ask(),
        LocalState(expected_wait=0.0, service=9.0),
        DOWN,
        Refuse(Reason.CLOUD_UNREACHABLE, pytest.approx(8.0)),
    ),
    (Mode.LOCAL_FIRST, ask(), LocalState(expected_wait=0.0, service=9.0), UP, Cloud(Reason.LOCAL_SATURATED)),
    (Mode.LOCAL_FIRST, ask(), BUSY, CloudState(permitted=True), Cloud(Reason.LOCAL_SATURATED)),
    (Mode.LOCAL_FIRST, ask(0.0), IDLE, UP, Refuse(Reason.EXPIRED)),
    (Mode.LOCAL_FIRST, ask(1.0, "local-only"), BUSY, UP, Local(Reason.PRIVACY)),
    (Mode.LOCAL_FIRST, ask(1.0, "local-only"), None, UP, Refuse(Reason.LOCAL_ABSENT)),
    (Mode.LOCAL_ONLY, ask(), IDLE, UP, Local(Reason.MODE)),
    (Mode.LOCAL_ONLY, ask(), None, UP, Refuse(Reason.LOCAL_ABSENT)),
    (Mode.CLOUD_ONLY, ask(), IDLE, UP, Cloud(Reason.MODE)),
    (Mode.CLOUD_ONLY, ask(), IDLE, DOWN, Refuse(Reason.CLOUD_UNREACHABLE, 3.0)),
    (Mode.CLOUD_ONLY, ask(1.0, "local-only"), IDLE, UP, Local(Reason.PRIVACY)),
    (Mode.FASTEST, ask(), QUEUED, UP, Cloud(Reason.CLOUD_FASTER)),
    (Mode.FASTEST, ask(), IDLE, UP, Local(Reason.LOCAL_FASTER)),
    (Mode.FASTEST, ask(), QUEUED, DOWN, Local(Reason.CLOUD_UNREACHABLE)),
    (Mode.FASTEST, ask(), QUEUED, FAR, Local(Reason.LOCAL_MEETS_DEADLINE)),
    (Mode.FASTEST, ask(), BUSY, FAR, Refuse(Reason.BOTH_LATE, pytest.approx(1.01))),
    (Mode.CASCADE, ask(), IDLE, UP, Local(Reason.LOCAL_MEETS_DEADLINE)),
    (Mode.CASCADE, ask(), BUSY, UP, Cloud(Reason.LOCAL_SATURATED)),
]


@pytest.mark.parametrize(("mode", "request_", "local", "cloud", "verdict"), TABLE)
def test_table(mode: Mode, request_: Ask, local: LocalState | None, cloud: CloudState, verdict: object) -> None:
    assert route(request_, local, cloud, rules(mode), now=NOW) == verdict


@pytest.mark.parametrize(
    ("cloud", "reason"),
    [
        (CloudState(permitted=True, budget_left=0), Reason.BUDGET_EXHAUSTED),
        (CloudState(permitted=True, policy_age=11.0), Reason.POLICY_STALE),
        (CloudState(permitted=True, admitted=False, announced_wait=4.0), Reason.CLOUD_SATURATED),
    ],
)
def test_what_bars_overflow_is_named(cloud: CloudState, reason: Reason) -> None:
    verdict = route(ask(), BUSY, cloud, rules(offline_lease_s=10.0), now=NOW)
    assert isinstance(verdict, Refuse)
    assert verdict.reason is reason
    assert verdict.retry_after is not None


def test_announced_wait_counts_as_cloud_time() -> None:
    cloud = CloudState(permitted=True, estimate=0.1, announced_wait=2.0)
    assert route(ask(), BUSY, cloud, rules(), now=NOW) == Refuse(Reason.BOTH_LATE, pytest.approx(1.01))


def test_a_tag_of_the_policy_is_private() -> None:
    tagged = ask(1.0, "medical")
    assert route(tagged, BUSY, UP, rules(privacy_tags=["medical"]), now=NOW) == Local(Reason.PRIVACY)
    assert route(tagged, BUSY, UP, rules(), now=NOW) == Cloud(Reason.LOCAL_SATURATED)


def test_tags_are_read_without_case_or_blanks() -> None:
    assert tags_of(" Local-Only, medical ,,") == {"local-only", "medical"}
    assert tags_of(None) == frozenset()


def test_cascade_escalates_what_it_is_unsure_of() -> None:
    cascade = rules(Mode.CASCADE, confidence_below=0.8)
    assert after_local(ask(), 0.9, UP, cascade, now=NOW) == Keep(Reason.CONFIDENT)
    assert after_local(ask(), 0.5, UP, cascade, now=NOW) == Escalate(Reason.LOW_CONFIDENCE)
    assert after_local(ask(), 0.5, DOWN, cascade, now=NOW) == Keep(Reason.CLOUD_UNREACHABLE)
    assert after_local(ask(1.0, "local-only"), 0.5, UP, cascade, now=NOW) == Keep(Reason.PRIVACY)
    assert after_local(ask(), None, UP, cascade, now=NOW) == Keep(Reason.MODE)
    assert after_local(ask(), 0.5, UP, rules(), now=NOW) == Keep(Reason.MODE)


def test_fall_back_to_the_cloud() -> None:
    assert after_local_failure(ask(), UP, rules(), now=NOW) == Cloud(Reason.LOCAL_FAILED)
    assert after_local_failure(ask(0.05), UP, rules(), now=NOW) == Refuse(Reason.BOTH_LATE)
    spent = CloudState(permitted=True, retries_left=False)
    assert after_local_failure(ask(), spent, rules(), now=NOW) == Refuse(Reason.RETRIES_EXHAUSTED)


def test_fall_back_to_the_device() -> None:
    assert after_cloud_failure(ask(), IDLE, rules(), now=NOW) == Local(Reason.CLOUD_FAILED)
    assert after_cloud_failure(ask(), BUSY, rules(), now=NOW) == Refuse(Reason.BOTH_LATE, pytest.approx(1.01))
    assert after_cloud_failure(ask(), None, rules(), now=NOW) == Refuse(Reason.LOCAL_ABSENT)
    assert after_cloud_failure(ask(), IDLE, rules(Mode.CLOUD_ONLY), now=NOW) == Refuse(Reason.MODE)


def test_a_kept_answer_is_given_at_once_where_the_policy_would_let_it_stand() -> None:
    hit = Cached(Reason.CACHE_HIT)
    assert at_once(ask(), None, rules(cache_bytes=1), now=NOW) == hit
    assert at_once(ask(), 0.1, rules(cache_bytes=1, confidence_below=0.8), now=NOW) == hit
    cascade = rules(Mode.CASCADE, cache_bytes=1, confidence_below=0.8)
    assert at_once(ask(), 0.8, cascade, now=NOW) == hit
    assert at_once(ask(), None, cascade, now=NOW) == hit
    assert at_once(ask(), 0.7, cascade, now=NOW) is None
    assert at_once(ask(1.0, "local-only"), None, rules(cache_bytes=1), now=NOW) == hit
    assert at_once(ask(0.0), None, rules(cache_bytes=1), now=NOW) is None
    assert at_once(ask(), None, rules(), now=NOW) is None
    assert at_once(ask(), None, rules(cache_bytes=0), now=NOW) is None
    assert at_once(ask(), None, rules(on_overload="cached"), now=NOW) is None
    assert at_once(ask(), None, rules(Mode.CLOUD_ONLY, cache_bytes=1), now=NOW) is None


def test_on_overload_a_kept_answer_stands_in_with_the_reason_nobody_could() -> None:
    cached = rules(on_overload="cached")
    assert route(ask(), BUSY, FAR, cached, now=NOW, kept=True) == Cached(Reason.BOTH_LATE)
    assert route(ask(), BUSY, DOWN, cached, now=NOW, kept=True) == Cached(Reason.CLOUD_UNREACHABLE)
    assert route(ask(), BUSY, FAR, cached, now=NOW) == Refuse(Reason.BOTH_LATE, pytest.approx(1.01))
    assert route(ask(), BUSY, FAR, rules(), now=NOW, kept=True) == Refuse(Reason.BOTH_LATE, pytest.approx(1.01))
    assert route(ask(), IDLE, FAR, cached, now=NOW, kept=True) == Local(Reason.LOCAL_MEETS_DEADLINE)
    assert route(ask(), BUSY, UP, cached, now=NOW, kept=True) == Cloud(Reason.LOCAL_SATURATED)
    assert route(ask(0.0), IDLE, UP, cached, now=NOW, kept=True) == Refuse(Reason.EXPIRED)
    only_cloud = rules(Mode.CLOUD_ONLY, on_overload="cached")
    assert route(ask(), IDLE, DOWN, only_cloud, now=NOW, kept=True) == Refuse(Reason.CLOUD_UNREACHABLE, 3.0)
    assert after_everyone(cached, kept=True) == Cached(Reason.NOBODY_ANSWERED)
    assert after_everyone(cached, kept=False) is None
    assert after_everyone(rules(cache_bytes=1), kept=True) is None
    assert after_everyone(only_cloud, kept=True) is None


SECONDS = st.floats(0, 100, allow_nan=False)
TAGS = st.frozensets(st.sampled_from(["local-only", "medical", "legal", "x"]))
ASKS = st.builds(Ask, deadline=st.floats(NOW - 5, NOW + 100), privacy=TAGS)
LOCALS = st.none() | st.builds(LocalState, expected_wait=SECONDS, service=SECONDS, caution=SECONDS)
CLOUDS = st.builds(
    CloudState,
    permitted=st.booleans(),
    estimate=st.none() | SECONDS,
    retry_in=SECONDS,
    budget_left=st.none() | st.integers(0, 5),
    retries_left=st.booleans(),
    policy_age=SECONDS,
    announced_wait=SECONDS,
    admitted=st.booleans(),
    caution=SECONDS,
    untold=SECONDS,
)
RULES = st.builds(
    Rules,
    mode=st.sampled_from(Mode),
    deadline_ms=st.just(1000.0),
    confidence_below=st.none() | st.floats(0, 1),
    hedge_after_ms=st.none(),
    cloud_budget=st.just(Policy().cloud_budget),
    privacy_tags=st.sampled_from([(), ("local-only",), ("medical", "legal")]),
    on_overload=st.sampled_from(OnOverload),
    offline_lease_s=st.none() | SECONDS,
    split=st.none(),
    shadow=st.none(),
    cache_bytes=st.none() | st.integers(0, 1000),
)


@given(ASKS, LOCALS, CLOUDS, RULES, st.floats(0, 1))
def test_private_requests_never_leave(
    asked: Ask, local: LocalState | None, cloud: CloudState, given_rules: Rules, confidence: float
) -> None:
    private = "local-only" in asked.privacy or bool(asked.privacy & set(given_rules.privacy_tags))
    if private or given_rules.mode is Mode.LOCAL_ONLY:
        assert not isinstance(route(asked, local, cloud, given_rules, now=NOW), Cloud)
        assert not isinstance(after_local_failure(asked, cloud, given_rules, now=NOW), Cloud)
        assert not isinstance(after_local(asked, confidence, cloud, given_rules, now=NOW), Escalate)


@given(ASKS, LOCALS, CLOUDS, RULES)
def test_what_cannot_answer_is_never_named(
    asked: Ask, local: LocalState | None, cloud: CloudState, given_rules: Rules
) -> None:
    verdict = route(asked, local, cloud, given_rules, now=NOW)
    if isinstance(verdict, Local):
        assert local is not None
    if isinstance(verdict, Cloud):
        assert cloud.permitted
        assert cloud.budget_left != 0
    if asked.deadline <= NOW:
        assert verdict == Refuse(Reason.EXPIRED)


@given(ASKS, LOCALS, CLOUDS, RULES, st.tuples(st.booleans(), st.none() | st.floats(0, 1)))
def test_a_kept_answer_takes_the_place_of_nothing_but_a_refusal(
    asked: Ask, local: LocalState | None, cloud: CloudState, given_rules: Rules, found: tuple[bool, float | None]
) -> None:
    kept, confidence = found
    verdict = route(asked, local, cloud, given_rules, now=NOW, kept=kept)
    without = route(asked, local, cloud, given_rules, now=NOW)
    if isinstance(verdict, Cached):
        assert kept
        assert isinstance(without, Refuse)
        assert without.reason is verdict.reason
        assert asked.deadline > NOW
        assert given_rules.on_overload is OnOverload.CACHED
        assert given_rules.kept_bytes > 0
    else:
        assert verdict == without
    if at_once(asked, confidence, given_rules, now=NOW) is not None:
        assert given_rules.cache_bytes
        assert asked.deadline > NOW
        assert given_rules.mode is not Mode.CLOUD_ONLY


@given(ASKS, LOCALS, CLOUDS, RULES)
def test_a_function_of_its_arguments(
    asked: Ask, local: LocalState | None, cloud: CloudState, given_rules: Rules
) -> None:
    assert route(asked, local, cloud, given_rules, now=NOW) == route(asked, local, cloud, given_rules, now=NOW)
    fallback = after_cloud_failure(asked, local, given_rules, now=NOW)
    assert fallback == after_cloud_failure(asked, local, given_rules, now=NOW)


@given(ASKS, LOCALS, CLOUDS, RULES)
def test_hysteresis_only_keeps_at_home(
    asked: Ask, local: LocalState | None, cloud: CloudState, given_rules: Rules
) -> None:
    """An idle cloud gets nothing that one in use would not, but for what would be refused."""
    idle = msgspec.structs.replace(cloud, untold=DOUBT_S / 2)
    in_use = msgspec.structs.replace(cloud, untold=0.0)
    if isinstance(route(asked, local, idle, given_rules, now=NOW), Cloud):
        assert isinstance(route(asked, local, in_use, given_rules, now=NOW), Cloud)
    doubted = msgspec.structs.replace(cloud, untold=DOUBT_S)
    if isinstance(route(asked, local, idle, given_rules, now=NOW), Local):
        assert isinstance(route(asked, local, doubted, given_rules, now=NOW), Local)


def test_it_is_cheap() -> None:
    # A generous multiple of the goal (50 µs): this guards against a change of kind, not against a busy machine.
    standing = rules()
    best = min(timeit.repeat(lambda: route(ask(), BUSY, UP, standing, now=NOW), number=200, repeat=5)) / 200
    assert best < 500e-6
