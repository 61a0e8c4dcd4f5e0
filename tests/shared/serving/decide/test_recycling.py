"""Who is made anew when the process has grown, and when nobody is."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shared.serving.decide.recycling import PAUSE_S, History, Leave, Recycle, Suspect, recycle

A, B, C = (("t", name, "1") for name in "abc")
SUSPECTS = [
    Suspect(key=A, runs=3, loaded_at=0.0),
    Suspect(key=B, runs=9, loaded_at=5.0),
    Suspect(key=C, runs=9, loaded_at=2.0),
]
suspects = st.lists(
    st.builds(
        Suspect,
        key=st.tuples(st.just("t"), st.text("ab", min_size=1, max_size=3), st.just("1")),
        runs=st.integers(0, 5),
        loaded_at=st.floats(0, 100),
    ),
    max_size=5,
)


def test_the_one_that_ran_most_since_it_was_loaded_and_of_those_the_oldest():
    verdict = recycle(SUSPECTS, History(), growth=11, bound=10, now=1.0)
    assert verdict == Recycle(key=C, growth=11, bound=10, history=History(at=1.0, growth=11))


@given(suspects, st.integers(-10, 10), st.integers(0, 10))
def test_nothing_within_the_bound_and_nothing_that_never_ran(found, growth, bound):
    verdict = recycle(found, History(), growth=growth, bound=bound, now=0.0)
    if growth <= bound:
        assert verdict is Leave.WITHIN_BOUND
    elif not any(each.runs for each in found):
        assert verdict is Leave.NOTHING_RAN
    else:
        assert isinstance(verdict, Recycle)
        assert max(each.runs for each in found) in {each.runs for each in found if each.key == verdict.key}


def test_in_vain_the_pause_doubles_and_what_helped_forgets_it():
    history, now, times = History(), 0.0, []
    while len(times) < 5:
        verdict = recycle(SUSPECTS, history, growth=100, bound=10, now=now)
        if isinstance(verdict, Recycle):
            times.append(now)
            history = verdict.history
        now += 1.0
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses == [PAUSE_S * 2, PAUSE_S * 4, PAUSE_S * 8, PAUSE_S * 16]
    # It helped, and later the process has grown again.
    again = recycle(SUSPECTS, history, growth=50, bound=10, now=times[-1] + PAUSE_S)
    assert isinstance(again, Recycle)
    assert again.history.vain == 0
