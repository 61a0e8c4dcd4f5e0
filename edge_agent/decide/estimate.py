"""How long the cloud takes, round trip included: mean and mean deviation, as TCP estimates its time-outs (RFC 6298).  Pure.

A long text takes longer there, and longer to carry: next to the mean, how much each byte adds is fitted. A prediction is then for this
very request, and the deviation is what is left when its size is known. What nobody renews is forgotten down to the least that was seen of
late, and not to nothing: queues end, but the way to the cloud does not become shorter while nobody looks.
"""

import msgspec

ALPHA = 0.125
BETA = 0.25
GAMMA = 0.03
"""Weight of one answer in the slope: it says how sizes matter, which changes more slowly than how busy the cloud is."""
HALF_LIFE_S = 5.0
"""An estimate nobody renews falls half the way to the least in this time, so that a cloud that was slow once is asked again."""
DRIFT = 1.01
"""The least rises by this with each answer, so that a longer way is believed in the end."""


class Estimate(msgspec.Struct, frozen=True):
    """Seconds; `at` is when it last learnt something (monotonic), `least` about the least that was seen.

    `size` is the mean size; variance and covariance are of sizes about it.
    """

    mean: float
    deviation: float
    at: float
    size: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0
    least: float = 0.0

    def of(self, size: float) -> float:
        """Mean seconds of a request of `size`: never fewer for a larger one, and none whose every byte costs more than all did."""
        if self.variance <= 0.0 or self.covariance <= 0.0 or size <= 0.0:
            return self.mean
        slope = min(self.covariance / self.variance, self.mean / self.size) if self.size > 0.0 else 0.0
        return self.mean + slope * (size - self.size)


def observed(estimate: Estimate | None, seconds: float, *, now: float, size: float = 0.0) -> Estimate:
    """The estimate with one more measurement; `size` in any unit that stays the same, 0 where it is not known."""
    if estimate is None:
        return Estimate(seconds, seconds / 4, now, size, least=seconds)
    deviation = (1 - BETA) * estimate.deviation + BETA * abs(seconds - estimate.of(size))
    mean = (1 - ALPHA) * estimate.mean + ALPHA * seconds
    least = min(seconds, estimate.least * DRIFT)
    if size <= 0.0:
        return msgspec.structs.replace(estimate, mean=mean, deviation=deviation, at=now, least=least)
    longer = size - estimate.size
    return Estimate(
        mean,
        deviation,
        now,
        estimate.size + ALPHA * longer,
        (1 - GAMMA) * (estimate.variance + GAMMA * longer**2),
        (1 - GAMMA) * (estimate.covariance + GAMMA * longer * (seconds - estimate.mean)),
        least,
    )


def predicted(estimate: Estimate | None, *, now: float, size: float = 0.0) -> float | None:
    """Mean and deviation in seconds for a request of `size`, faded by age; None while nothing was measured."""
    if estimate is None:
        return None
    found = estimate.of(size)
    least = min(found, estimate.least)
    return least + (found - least + estimate.deviation) * _faded(estimate, now)


def caution(estimate: Estimate | None, *, now: float) -> float:
    """How much of `predicted` is deviation, in seconds."""
    return 0.0 if estimate is None else estimate.deviation * _faded(estimate, now)


def _faded(estimate: Estimate, now: float) -> float:
    faded: float = 0.5 ** (max(0.0, now - estimate.at) / HALF_LIFE_S)
    return faded
