"""How far predictions of completion are off on this machine right now. Pure: state in, state out.

The cost model knows the session's own time; a request also waits for tokenization, for the interpreter and for busy neighbours. What
requests really took, divided by what was predicted for them, is averaged as TCP averages round trips (RFC 6298): mean plus four
deviations is the factor by which predictions are stretched, so that near saturation a request that would just miss its
deadline is handed over or shed at once, not computed in vain.

Four, not one: past saturation nearly all requests are admitted just below the line, so whatever lies beyond the margin is computed
for nobody, while a margin that is too wide only makes the queue shorter.
"""

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
"""A factor nobody renews halves its distance to 1 in this time, so that what was slow once is tried again."""
MISSED = 1.25
"""How much longer than until it was given up a missed request counts as having taken: more, but nobody knows how much. Counted as it
stands, each would seem to have taken just what was allowed, and the line would never move."""


class Calibration(msgspec.Struct, frozen=True):
    """Mean and mean deviation of actual / predicted; `at` is when it last learnt (monotonic seconds)."""

    ratio: float = 1.0
    deviation: float = 0.0
    at: float = 0.0


def observed(
    calibration: Calibration, *, predicted: float, seconds: float, now: float, missed: bool = False
) -> Calibration:
    """After a request predicted to be done in `predicted` seconds took `seconds`; `missed`: was given up after them."""
    if predicted < WORTH_S or not seconds >= 0.0:
        return calibration
    ratio = min(MOST, seconds / predicted * (MISSED if missed else 1.0))
    deviation = (1 - BETA) * calibration.deviation + BETA * abs(ratio - calibration.ratio)
    return Calibration((1 - ALPHA) * calibration.ratio + ALPHA * ratio, deviation, now)


def factor(calibration: Calibration, *, now: float) -> float:
    """What predictions are multiplied by now."""
    stretched = min(MOST, max(LEAST, calibration.ratio + WIDTH * calibration.deviation))
    fade: float = 0.5 ** (max(0.0, now - calibration.at) / HALF_LIFE_S)
    return 1.0 + (stretched - 1.0) * fade
