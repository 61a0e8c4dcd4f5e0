"""The factor follows what requests really take, and forgets."""

from hypothesis import given
from hypothesis import strategies as st

from shared.serving.decide.admission import Ask, Limits, Load, Shed, ShedReason, admit
from shared.serving.decide.calibration import HALF_LIFE_S, MOST, Calibration, Stretch, observed, stretch

seconds = st.floats(min_value=0.0, max_value=100.0)


def after(ratio: float, times: int) -> Calibration:
    calibration = Calibration()
    for i in range(times):
        calibration = observed(calibration, predicted=0.1, seconds=0.1 * ratio, now=float(i))
    return calibration


def bound(calibration: Calibration, predicted: float, *, now: float) -> float:
    """How many times its prediction a request of `predicted` seconds may take."""
    return stretch(calibration, now=now).of(predicted) / predicted


def test_a_machine_that_is_twice_as_slow_is_predicted_so():
    assert 1.9 < bound(after(2.0, 300), 0.1, now=299.0) < 2.1


def test_scatter_makes_it_cautious():
    calibration = Calibration()
    for i in range(200):
        calibration = observed(calibration, predicted=0.1, seconds=0.05 if i % 2 else 0.15, now=0.0)
    assert bound(calibration, 0.1, now=0.0) > 1.3


def test_what_scatter_adds_is_seconds_and_does_not_grow_with_the_queue():
    calibration = Calibration()
    for i in range(200):
        calibration = observed(calibration, predicted=0.1, seconds=0.05 if i % 2 else 0.15, now=0.0)
    read = stretch(calibration, now=0.0)
    for predicted in (0.1, 1.0, 10.0):
        assert abs(read.of(predicted) - read.factor * predicted - read.margin) < 1e-9
    assert 0.15 < read.margin < 0.25


def test_it_forgets_what_nobody_renews():
    slow = after(3.0, 50)
    assert abs(bound(slow, 10.0, now=49.0 + HALF_LIFE_S) - 1) < abs(bound(slow, 10.0, now=49.0) - 1) * 0.51
    assert abs(bound(slow, 0.1, now=49.0 + 100) - 1) < 1e-6


def test_short_requests_teach_nothing():
    assert observed(Calibration(), predicted=0.001, seconds=5.0, now=1.0) == Calibration()


@given(st.lists(st.tuples(seconds, seconds), max_size=50), seconds)
def test_it_stays_within_bounds(history, later):
    calibration = Calibration()
    for i, (predicted, took) in enumerate(history):
        calibration = observed(calibration, predicted=predicted, seconds=took, now=float(i))
    read = stretch(calibration, now=len(history) + later)
    for predicted in (0.001, 0.1, 10.0):
        assert 0.0 < read.of(predicted) <= MOST * predicted * 1.000001


def test_a_stretched_prediction_is_shed_before_it_is_late():
    load, ask = Load(entries=3, expected_wait=0.15), Ask(seconds=0.1)
    assert not isinstance(admit(load, Limits(), ask, deadline=0.3, now=0.0), Shed)
    shed = admit(load, Limits(), ask, deadline=0.3, now=0.0, stretch=Stretch(1.5))
    assert isinstance(shed, Shed)
    assert shed.reason is ShedReason.DEADLINE
    shed = admit(load, Limits(), ask, deadline=0.3, now=0.0, stretch=Stretch(1.0, 0.1))
    assert isinstance(shed, Shed)
    assert shed.reason is ShedReason.DEADLINE


def test_deadlines_that_are_missed_move_the_line_however_exactly_they_are_missed():
    calibration = Calibration()
    for i in range(300):
        # Given up just when the prediction, stretched as it was, said it would be done: alone that would confirm it.
        took = stretch(calibration, now=float(i)).of(0.2)
        calibration = observed(calibration, predicted=0.2, seconds=took, now=float(i), missed=True)
    assert calibration.ratio > 2.0


def test_the_margin_is_wide_where_predictions_scatter_and_narrow_where_they_are_true():
    def margin(scatter: float) -> float:
        calibration = Calibration()
        for i in range(400):
            calibration = observed(calibration, predicted=0.1, seconds=0.1 + (-1) ** i * scatter, now=0.0)
        return bound(calibration, 0.1, now=0.0) - 1.0

    assert margin(0.0) < 0.01
    assert 0.03 < margin(0.001) < 0.06
    assert margin(0.02) > 0.6
