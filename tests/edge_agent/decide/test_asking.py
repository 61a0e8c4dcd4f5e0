"""The window is bounded whatever happens, patience follows the way, and a way that is found again is used in full."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide.asking import FIRST_S, LEAST_S, MOST_S, WINDOW, Flow, arrived, lost

EVENTS = st.lists(
    st.one_of(st.tuples(st.just("came"), st.none() | st.floats(0.0, 1e4)), st.tuples(st.just("lost"), st.booleans()))
)


def after(events, flow):
    for what, said in events:
        flow = arrived(flow, took=said) if what == "came" else lost(flow, in_time=said)
    return flow


@given(EVENTS)
def test_window_and_patience_are_bounded_whatever_happens(events):
    flow = after(events, Flow())
    assert 1.0 <= flow.window <= WINDOW
    assert LEAST_S <= flow.patience <= MOST_S


@given(EVENTS)
def test_what_happened_is_forgotten_once_parts_come_again(events):
    flow = after([*events, *[("came", 0.01)] * 100], Flow())
    assert int(flow.window) == WINDOW
    assert flow.patience == LEAST_S


def test_a_part_that_was_asked_for_twice_says_nothing_of_the_time():
    assert arrived(Flow(), took=None) == Flow(window=3.0)
    assert arrived(Flow(), took=5.0).patience == 20.0


def test_patience_grows_while_nothing_comes_and_not_for_one_that_others_passed():
    assert lost(Flow(), in_time=False) == Flow(window=1.0, patience=2 * FIRST_S)
    assert lost(Flow(window=8.0), in_time=True) == Flow(window=4.0)
