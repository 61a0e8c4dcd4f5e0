"""Which of several measured ways to run a model is best. Pure: seconds in, a choice out.

The objective: requests come alone, some at once and many at once, and each of these matters alike. A way's score is the mean of the
logarithms of the seconds in which it answers each such burst, the less the better. So ten per cent less time for a request that
comes alone weighs as much as ten per cent more throughput of a busy device, however large the model is.

Ways are measured in rounds, one after the other within each, so that a machine that warms up or has a neighbour treats all alike.
Two ways are compared by their differences, round by round: one is ahead where the median difference is more than what rounds
differ by, and more than `LEAST_GAIN`. Nobody is told to use more cores for less than that.
"""

import math
from collections.abc import Sequence
from statistics import median

LEAST_GAIN = 0.03
"""Differences of scores below this, about three per cent, decide nothing."""
MOST_NOISE = 0.15
"""However much rounds differ: what is this far ahead is ahead, so that the choice is never much slower than the fastest."""
_NORMAL = 1.4826
"""The median absolute deviation of normal noise times this is its standard deviation."""


def score(seconds: Sequence[float]) -> float:
    """The score of one round: `seconds` per burst, in the order of the bursts."""
    return math.fsum(math.log(each) for each in seconds) / len(seconds)


def is_ahead(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is faster than `other` beyond doubt; scores of the same rounds, in order."""
    differences = [b - a for a, b in zip(one, other, strict=False)]
    if not differences:
        return False
    middle = median(differences)
    spread = _NORMAL * median(abs(each - middle) for each in differences)
    noise = 2.0 * spread / math.sqrt(len(differences))
    return middle > max(LEAST_GAIN, min(noise, MOST_NOISE))


def fastest(rounds: Sequence[Sequence[float]]) -> int:
    """The place of the way with the least median score; the first of equals."""
    return min(range(len(rounds)), key=lambda i: median(rounds[i]))


def preferred(rounds: Sequence[Sequence[float]]) -> int:
    """The place of the first way, in the order of preference given, that the fastest one is not ahead of."""
    leader = rounds[fastest(rounds)]
    return next(i for i, own in enumerate(rounds) if own is leader or not is_ahead(leader, own))


def survivors(rounds: Sequence[Sequence[float]]) -> list[int]:
    """The places that are worth another round, in order: the better half, and whoever the fastest is not ahead of.

    After a single round only what takes three times as long as the fastest goes: one round may be bad luck.
    """
    leader = fastest(rounds)
    if min(len(own) for own in rounds) < 2:
        limit = median(rounds[leader]) + math.log(3.0)
        return [i for i, own in enumerate(rounds) if median(own) <= limit]
    half = sorted(range(len(rounds)), key=lambda i: median(rounds[i]))[: -(-len(rounds) // 2)]
    return [i for i, own in enumerate(rounds) if i in half or not is_ahead(rounds[leader], own)]
