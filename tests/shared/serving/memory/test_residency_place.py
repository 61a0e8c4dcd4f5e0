"""What goes so that what is wanted can come: the properties, whatever the snapshot."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shared.serving.decide.residency import (
    TENURE,
    Blocked,
    Keep,
    Load,
    Refuse,
    Resident,
    Wait,
    Wanted,
    over,
    place,
)

NOW = 100.0
sizes = st.integers(1, 50)


@st.composite
def residents(draw, most: int = 8):
    found = []
    for i in range(draw(st.integers(0, most))):
        asked = draw(st.booleans())
        found.append(
            Resident(
                key=("t", f"m{i}", "1"),
                bytes=draw(sizes),
                last_used=draw(st.floats(0, NOW)),
                keep=draw(st.sampled_from(Keep)),
                asked=asked,
                in_use=asked and draw(st.booleans()),
                settled_at=draw(st.floats(0, 2 * NOW)),
            )
        )
    return found


wanteds = st.builds(Wanted, key=st.just(("t", "new", "1")), bytes=sizes, patience_until=st.floats(0, 2 * NOW))
budgets = st.integers(1, 200)


def idle(each: Resident) -> bool:
    return not (each.asked or each.in_use or each.keep is Keep.PINNED)


def age(each: Resident):
    return each.keep is Keep.LAST, each.last_used, each.key


@given(residents(), wanteds, budgets)
def test_what_is_evicted_is_idle_enough_and_no_more_than_needed(found, wanted, budget):
    verdict = place(found, wanted, budget, now=NOW)
    if not isinstance(verdict, Load):
        return
    gone = [each for each in found if each.key in verdict.evict]
    assert len(gone) == len(verdict.evict) == len(set(verdict.evict))
    assert all(idle(each) for each in gone)
    left = sum(each.bytes for each in found) - sum(each.bytes for each in gone)
    before = sum(each.bytes for each in found)
    if gone:
        assert left + wanted.bytes <= budget
    assert left + wanted.bytes <= budget or not gone
    for each in gone:
        assert left + each.bytes + wanted.bytes > budget, "it could have stayed"
    assert gone or before + wanted.bytes <= budget


@given(residents(), wanteds, budgets)
def test_nothing_younger_goes_while_what_is_older_would_do(found, wanted, budget):
    verdict = place(found, wanted, budget, now=NOW)
    if not isinstance(verdict, Load) or not verdict.evict:
        return
    gone = [each for each in found if each.key in verdict.evict]
    assert [each.key for each in sorted(gone, key=age)] == list(verdict.evict), "the longest unused goes first"
    youngest = max(gone, key=age)
    older = sum(each.bytes for each in found if idle(each) and age(each) < age(youngest))
    assert sum(each.bytes for each in found) - older + wanted.bytes > budget


@given(st.lists(st.floats(0, NOW), min_size=1, max_size=8, unique=True), st.integers(1, 8))
def test_of_equal_ones_the_least_recently_used_go(used, wanted_units):
    found = [Resident(key=("t", str(i), "1"), bytes=10, last_used=at) for i, at in enumerate(used)]
    units = min(wanted_units, len(found))
    wanted = Wanted(key=("t", "new", "1"), bytes=10 * units, patience_until=0.0)
    verdict = place(found, wanted, 10 * len(found), now=NOW)
    assert verdict == Load(tuple(each.key for each in sorted(found, key=age)[:units]))


@given(residents(), wanteds, budgets)
def test_what_can_never_fit_is_refused_with_the_figures_and_all_else_comes_or_waits(found, wanted, budget):
    verdict = place(found, wanted, budget, now=NOW)
    fixed = sum(each.bytes for each in found if each.keep is Keep.PINNED)
    if wanted.bytes > budget:
        assert verdict == Refuse(reason=Blocked.TOO_LARGE, need=wanted.bytes, most=budget)
    elif fixed + wanted.bytes > budget:
        assert verdict == Refuse(reason=Blocked.PINNED, need=wanted.bytes, most=max(0, budget - fixed))
    else:
        assert isinstance(verdict, Load | Wait)


@given(residents(), wanteds, budgets)
def test_those_asked_to_drain_are_settled_not_pinned_and_enough(found, wanted, budget):
    verdict = place(found, wanted, budget, now=NOW)
    if not isinstance(verdict, Wait):
        return
    if verdict.drain:
        assert wanted.patience_until <= NOW
        asked = [each for each in found if each.key in verdict.drain]
        assert all(each.keep is not Keep.PINNED and each.settled_at <= NOW for each in asked)
        # Once they are idle it comes, and nobody else had to go.
        drained = [
            msgspec.structs.replace(each, asked=False, in_use=False) if each.key in verdict.drain else each
            for each in found
        ]
        then = place(drained, wanted, budget, now=NOW)
        assert isinstance(then, Load)
    elif verdict.again_at is not None:
        assert verdict.again_at > NOW


@given(residents(), budgets)
def test_whoever_waits_comes_in_once_the_others_are_idle(found, budget):
    """Nobody waits for ever: with time enough and every request answered, what fits beside the pinned is loaded."""
    wanted = Wanted(key=("t", "new", "1"), bytes=1, patience_until=0.0)
    calm = [msgspec.structs.replace(each, asked=False, in_use=False) for each in found]
    assert isinstance(place(calm, wanted, budget, now=10 * NOW), Load | Refuse)
    busy = place(found, wanted, budget, now=10 * NOW)
    assert not isinstance(busy, Wait) or busy.drain


@given(residents(), wanteds)
def test_no_budget_evicts_nothing(found, wanted):
    assert place(found, wanted, None, now=NOW) == Load()
    assert over(found, None) == ()


@given(residents(), budgets)
def test_what_is_over_the_budget_goes_as_far_as_it_may(found, budget):
    gone = set(over(found, budget))
    left = [each for each in found if each.key not in gone]
    assert all(idle(each) for each in found if each.key in gone)
    assert sum(each.bytes for each in left) <= budget or not any(idle(each) for each in left)


def test_nobody_is_asked_to_drain_before_its_tenure_is_over():
    load_s = 2.0
    busy = Resident(key=("t", "a", "1"), bytes=10, last_used=0.0, asked=True, in_use=True, settled_at=load_s * TENURE)
    wanted = Wanted(key=("t", "b", "1"), bytes=10, patience_until=1.0)
    assert place([busy], wanted, 10, now=0.5) == Wait(reason=Blocked.IN_USE, again_at=1.0)
    assert place([busy], wanted, 10, now=1.5) == Wait(reason=Blocked.IN_USE, again_at=8.0)
    assert place([busy], wanted, 10, now=8.0) == Wait(reason=Blocked.IN_USE, drain=(("t", "a", "1"),))
