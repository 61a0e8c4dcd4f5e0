import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide.probation import ENOUGH, LONGEST_S, SHORTEST_S, Reason, Suspect, Tally, judge, suspects_of
from tests.edge_agent.control.generations import generation, ref

OLD, NEW = "a" * 64, "b" * 64
SUSPECT = Suspect(name="m", version="2", subject=f"{NEW}-cpu", before="1")
GOOD = Tally(answers=1000, checked=200, fastest=0.01)


def judged(now, before=GOOD, *, seconds=1.0):
    return judge((SUSPECT,), {("m", "2"): now, ("m", "1"): before}, seconds=seconds)


def test_only_what_is_new_is_on_probation_and_only_where_there_is_something_to_go_back_to():
    before = generation(1, ref(OLD, "m", "1"), ref(OLD, "other", "1"))
    after = generation(2, ref(NEW, "m", "2"), ref(OLD, "other", "1"))
    assert suspects_of(after, before, {NEW: f"{NEW}-cpu", OLD: f"{OLD}-cpu"}) == (SUSPECT,)
    assert suspects_of(after, None, {NEW: "", OLD: ""}) == ()
    assert suspects_of(generation(3, *after.models), after, {NEW: "", OLD: ""}) == ()
    first = suspects_of(generation(2, ref(NEW, "new", "1")), before, {NEW: "s"})
    assert [each.before for each in first] == [None]


@pytest.mark.parametrize(
    ("now", "before", "reason"),
    [
        (Tally(answers=20, failures=5), GOOD, Reason.FAILURES),
        (Tally(answers=100, failures=5), GOOD, Reason.EARLY),
        (Tally(answers=0, failures=4), GOOD, Reason.EARLY),
        # The version before it failed as often: it is the requests.
        (Tally(answers=80, failures=20), Tally(answers=90, failures=10), Reason.EARLY),
        (Tally(answers=20, checked=20, odd=5), GOOD, Reason.NOT_FINITE),
        (Tally(answers=20, checked=20, odd=20), Tally(answers=20, checked=20, odd=20), Reason.EARLY),
        (Tally(answers=ENOUGH, fastest=0.06), GOOD, Reason.SLOW),
        (Tally(answers=ENOUGH, fastest=0.04), GOOD, Reason.EARLY),
        (Tally(answers=ENOUGH - 1, fastest=0.06), GOOD, Reason.EARLY),
        (Tally(answers=ENOUGH, fastest=0.06), Tally(), Reason.EARLY),
        (Tally(answers=ENOUGH, fastest=0.06), msgspec.structs.replace(GOOD, fastest=0.0), Reason.EARLY),
    ],
)
def test_what_speaks_against_a_version(now, before, reason):
    verdict = judged(now, before)
    assert verdict.reason is reason
    assert verdict.stays is (None if reason is Reason.EARLY else False)
    assert (verdict.suspect == SUSPECT) == (verdict.stays is False)


@pytest.mark.parametrize(
    ("answers", "seconds", "reason"),
    [
        (ENOUGH, SHORTEST_S, Reason.PROVED),
        (ENOUGH - 1, SHORTEST_S, Reason.EARLY),
        (10 * ENOUGH, SHORTEST_S - 1, Reason.EARLY),
        (0, LONGEST_S - 1, Reason.EARLY),
        (0, LONGEST_S, Reason.NOTHING_AGAINST),
    ],
)
def test_when_a_version_may_stay(answers, seconds, reason):
    verdict = judged(Tally(answers=answers, fastest=0.01), seconds=seconds)
    assert (verdict.stays, verdict.reason) == (None if reason is Reason.EARLY else True, reason)


TALLIES = st.builds(
    Tally,
    answers=st.integers(0, 500),
    failures=st.integers(0, 500),
    checked=st.just(200),
    odd=st.integers(0, 200),
    fastest=st.none() | st.floats(0.0, 10.0),
)


@given(TALLIES, TALLIES, st.floats(0.0, 1e4))
def test_it_always_ends_and_more_failures_never_help(now, before, seconds):
    verdict = judged(now, before, seconds=seconds)
    assert verdict.stays is not None or seconds < LONGEST_S
    worse = judged(msgspec.structs.replace(now, failures=now.failures + 1), before, seconds=seconds)
    assert verdict.stays is not False or worse.stays is False
