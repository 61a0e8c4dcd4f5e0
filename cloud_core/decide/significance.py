"""Could chance alone have made this difference?  Tests that ask less of the data than a t-test does. Pure.

* `more_often`: of one 2x2 table Fisher's exact test, one-sided (R. A. Fisher, Statistical Methods for Research Workers, 1934, §21.02):
  exact for any count, so that three errors are judged as rightly as three thousand. Of several, one per device, the test of Mantel
  and Haenszel with their correction for continuity (J. Natl. Cancer Inst. 22, 1959): devices that differ among themselves, and that
  answered unequal numbers of requests, do not look like a difference of versions.
* `drifted`: the two-sample Kolmogorov-Smirnov test with Stephens' correction for finite samples (M. A. Stephens, JRSS B 32, 1970;
  Press et al., Numerical Recipes, 14.3). On counts in buckets it errs towards "no difference".

All take values for independent. Requests of one device are not quite, so a gate asks for a difference that matters as well.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

_NEGLIGIBLE = 1e-17


class Table(NamedTuple):
    """How often something happened on the judged side, and on the one it is held against."""

    bad: int
    of: int
    base_bad: int
    base_of: int


def difference(tables: Sequence[Table]) -> float | None:
    """How much larger the share is on the judged side, -1 to 1: the mean over tables, by how much each can tell; None for nothing."""
    full = [each for each in tables if each.of and each.base_of]
    weights = [each.of * each.base_of / (each.of + each.base_of) for each in full]
    if not full:
        return None
    found = [each.bad / each.of - each.base_bad / each.base_of for each in full]
    return sum(weight * each for weight, each in zip(weights, found, strict=True)) / sum(weights)


def more_often(tables: Sequence[Table]) -> float:
    """The chance of at least so many on the judged side, if in each table both sides had the same share; 1 for a lesser share."""
    full = [each for each in tables if each.of and each.base_of]
    apart = difference(full)
    if apart is None or apart <= 0.0:
        return 1.0
    return _exact(full[0]) if len(full) == 1 else _mantel_haenszel(full)


def _exact(table: Table) -> float:
    bad, of, base_bad, base_of = table
    total, marked = of + base_of, bad + base_bad
    term = math.exp(_choose(marked, bad) + _choose(total - marked, of - bad) - _choose(total, of))
    chance = 0.0
    for count in range(bad, min(of, marked) + 1):
        chance += term
        # Beyond the mean each term is smaller than the one before it: what is left cannot matter any more.
        if term <= _NEGLIGIBLE * chance:
            break
        term *= (marked - count) * (of - count) / ((count + 1) * (total - marked - of + count + 1))
    return min(1.0, chance)


def _mantel_haenszel(tables: Sequence[Table]) -> float:
    excess, variance = 0.0, 0.0
    for bad, of, base_bad, base_of in tables:
        total, marked = of + base_of, bad + base_bad
        excess += bad - of * marked / total
        variance += of * base_of * marked * (total - marked) / (total**2 * (total - 1))
    if variance <= 0.0 or excess <= 0.5:
        return 1.0
    return 0.5 * math.erfc((excess - 0.5) / math.sqrt(2.0 * variance))


def drifted(distance: float, count: float, base_count: float) -> float:
    """The chance of at least this Kolmogorov-Smirnov distance between samples of one distribution; 1 where one is empty."""
    if not count or not base_count:
        return 1.0
    root = math.sqrt(count * base_count / (count + base_count))
    scaled = (root + 0.12 + 0.11 / root) * distance
    if scaled < 0.2:  # the series below converges slowly there, and its sum is 1 to thirteen digits
        return 1.0
    chance = 2.0 * sum((1.0 if j % 2 else -1.0) * math.exp(-2.0 * (j * scaled) ** 2) for j in range(1, 101))
    return min(1.0, max(0.0, chance))


def _choose(of: int, some: int) -> float:
    """The logarithm of a binomial coefficient."""
    return math.lgamma(of + 1) - math.lgamma(some + 1) - math.lgamma(of - some + 1)
