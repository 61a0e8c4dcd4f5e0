"""Mode `fastest`: what is compared, when it begins to use the cloud, and who finds out that a slow cloud no longer is."""

import msgspec
import pytest

from edge_agent.decide.routing import (
    DOUBT_S,
    REFUSED_FOR,
    Ask,
    Cloud,
    CloudState,
    Local,
    LocalState,
    Reason,
    Refuse,
    route,
)
from shared.protocol.policy import Mode, Policy, Rules, rules_for

NOW = 1000.0
IDLE = LocalState(expected_wait=0.0, service=0.01)
BUSY = LocalState(expected_wait=2.0, service=0.01)
QUEUED = LocalState(expected_wait=0.2, service=0.01)
UP = CloudState(permitted=True, estimate=0.1)
FAR = CloudState(permitted=True, estimate=5.0)


def rules(mode: Mode = Mode.LOCAL_FIRST) -> Rules:
    return rules_for(Policy(mode=mode), "any")


def ask(left: float = 1.0) -> Ask:
    return Ask(deadline=NOW + left)


def test_fastest_asks_a_cloud_it_knows_nothing_of() -> None:
    assert route(ask(), IDLE, CloudState(permitted=True), rules(Mode.FASTEST), now=NOW) == Cloud(Reason.CLOUD_FASTER)
    assert route(ask(), IDLE, CloudState(permitted=True), rules(), now=NOW) == Local(Reason.LOCAL_MEETS_DEADLINE)


def test_fastest_weighs_without_what_is_there_to_be_sure() -> None:
    wary = LocalState(expected_wait=0.02, service=0.2, caution=0.15)
    assert route(ask(), wary, UP, rules(Mode.FASTEST), now=NOW) == Local(Reason.LOCAL_FASTER)
    # The deadline is held against all of it.
    assert route(ask(0.15), wary, UP, rules(), now=NOW) == Cloud(Reason.LOCAL_SATURATED)


def test_fastest_begins_to_use_the_cloud_for_a_gain_and_goes_on_for_less() -> None:
    queued = LocalState(expected_wait=0.1, service=0.005)
    fastest = rules(Mode.FASTEST)
    assert route(ask(), queued, UP, fastest, now=NOW) == Cloud(Reason.CLOUD_FASTER)
    idle = msgspec.structs.replace(UP, untold=0.1)
    assert route(ask(), queued, idle, fastest, now=NOW) == Local(Reason.LOCAL_FASTER)
    assert route(ask(), QUEUED, idle, fastest, now=NOW) == Cloud(Reason.CLOUD_FASTER)


def test_what_would_be_refused_finds_out_whether_a_slow_cloud_still_is() -> None:
    forgotten = msgspec.structs.replace(FAR, untold=DOUBT_S)
    assert route(ask(), BUSY, forgotten, rules(), now=NOW) == Cloud(Reason.LOCAL_SATURATED)
    assert route(ask(), IDLE, forgotten, rules(), now=NOW) == Local(Reason.LOCAL_MEETS_DEADLINE)
    assert route(ask(), BUSY, msgspec.structs.replace(FAR, untold=0.1), rules(), now=NOW) == Refuse(
        Reason.BOTH_LATE, pytest.approx(1.01)
    )
    told = msgspec.structs.replace(forgotten, announced_wait=2.0)
    assert isinstance(route(ask(), BUSY, told, rules(), now=NOW), Refuse)


def test_fastest_counts_what_a_request_costs_those_behind_it() -> None:
    crowded = msgspec.structs.replace(IDLE, displaced=0.2)
    assert route(ask(), crowded, UP, rules(Mode.FASTEST), now=NOW) == Cloud(Reason.CLOUD_FASTER)
    assert route(ask(), crowded, UP, rules(), now=NOW) == Local(Reason.LOCAL_MEETS_DEADLINE)
    # Where nobody else may answer, it is refused for what it costs others beyond its deadline, and not before.
    away = CloudState(permitted=False)
    assert route(ask(), crowded, away, rules(Mode.FASTEST), now=NOW) == Local(Reason.CLOUD_UNREACHABLE)
    dear = msgspec.structs.replace(IDLE, displaced=1.0 / REFUSED_FOR)
    assert isinstance(route(ask(), dear, away, rules(Mode.FASTEST), now=NOW), Refuse)
    assert route(ask(), dear, away, rules(), now=NOW) == Local(Reason.LOCAL_MEETS_DEADLINE)


@pytest.mark.parametrize("mode", [Mode.FASTEST, Mode.LOCAL_FIRST])
def test_what_would_be_refused_finds_out_whether_the_cloud_is_back(mode: Mode) -> None:
    away = CloudState(permitted=False, doubted=True)
    assert route(ask(), BUSY, away, rules(mode), now=NOW) == Cloud(Reason.LOCAL_SATURATED)
    assert isinstance(route(ask(), IDLE, away, rules(mode), now=NOW), Local)
    for barred in ({"budget_left": 0}, {"admitted": False}, {"doubted": False}):
        assert isinstance(route(ask(), BUSY, msgspec.structs.replace(away, **barred), rules(mode), now=NOW), Refuse)
