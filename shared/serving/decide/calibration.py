"""How far predictions of completion are off on this machine right now. Pure: state in, state out.

The cost model knows the session's own time; a request also waits for tokenization, for the interpreter and for busy neighbours. What
requests really took, divided by what was predicted for them, is averaged, and so is what that leaves unexplained, in seconds, as TCP
averages round trips (RFC 6298). A prediction is multiplied by the one, and four of the other are added to it, so that near saturation
a request that would just miss its deadline is handed over or shed at once, not computed in vain.

The deviation is added, not multiplied by: what nobody can predict is which batch a request gets into and when that one ends. That is a
batch's time or two whether ten requests wait or a hundred; as a factor, learnt where few wait, it would turn away half of a queue that
is in good time.

Four, not one: past saturation nearly all requests are admitted just below the line, so whatever lies beyond the margin is computed
for nobody, while a margin that is too wide only makes the queue shorter.
"""

from typing import NamedTuple

import msgspec

ALPHA = 0.03
"""Requests of one batch share their fate: the average is over about a full one."""
BETA = 0.06
WIDTH = 4.0
"""Deviations added to the mean (K of RFC 6298)."""
LEAST, MOST = 0.7, 4.0
WORTH_S = 0.01
"""Shorter predictions teach nothing: what is fixed per request would look like a factor."""
HALF_LIFE_S = 2.0
"""What nobody renews halves its distance to nothing in this time, so that what was slow once is tried again."""
MISSED = 1.25
"""How much longer than until it was given up a missed request counts as having taken: more, but nobody knows how much. Counted as it
stands, each would seem to have taken just what was allowed, and the line would never move."""


class Calibration(msgspec.Struct, frozen=True):
    """Mean of actual / predicted; the mean deviation from what it says, in seconds; `at`: when it last learnt (monotonic seconds)."""

    ratio: float = 1.0
    deviation: float = 0.0
    at: float = 0.0


class Stretch(NamedTuple):
    """How predictions are read now: `factor` times as long, and `margin` seconds on top, `MOST` times as long in all at most."""

    factor: float = 1.0
    margin: float = 0.0

    def of(self, predicted: float) -> float:
        """Seconds that what was predicted to take `predicted` seconds is done in, as good as surely."""
        return predicted * self.factor + self.caution(predicted)

    def caution(self, predicted: float) -> float:
        """How much of `of` is there to be sure."""
        return min(self.margin, (MOST - self.factor) * predicted)


def observed(
    calibration: Calibration, *, predicted: float, seconds: float, now: float, missed: bool = False
) -> Calibration:
    """After a request predicted to be done in `predicted` seconds took `seconds`; `missed`: was given up after them."""
    if predicted < WORTH_S or not seconds >= 0.0:
        return calibration
    took = min(MOST * predicted, seconds * (MISSED if missed else 1.0))
    error = abs(took - calibration.ratio * predicted)
    deviation = (1 - BETA) * calibration.deviation + BETA * error
    return Calibration((1 - ALPHA) * calibration.ratio + ALPHA * took / predicted, deviation, now)


def stretch(calibration: Calibration, *, now: float) -> Stretch:
    """How predictions are read now."""
    fade: float = 0.5 ** (max(0.0, now - calibration.at) / HALF_LIFE_S)
    ratio = min(MOST, max(LEAST, calibration.ratio))
    return Stretch(1.0 + (ratio - 1.0) * fade, WIDTH * calibration.deviation * fade)
