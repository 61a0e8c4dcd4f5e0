"""Two versions side by side on the same devices: the numbers by which one is let on or taken back. Pure.

Distances are between distributions as histograms know them, values at the middle of their buckets, so each is right within the
histogram's stated error: Kolmogorov-Smirnov's statistic (the largest difference of the two distribution functions, 0 to 1) and
Wasserstein's first distance (the mean distance values must be moved, in their own unit).
"""

from collections.abc import Iterator

import msgspec

from shared.protocol.telemetry import Histogram, bounds_of, coarsened, quantile

QUANTILES = (0.5, 0.95, 0.99)


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What one version did on the devices that ran both."""

    version: str
    requests: int
    errors: int
    error_rate: float | None
    count: int
    mean: float | None
    quantiles: dict[str, float | None]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """`candidate` against `base`; differences are candidate minus base, null where a side has no values."""

    base: Side
    candidate: Side
    mean_difference: float | None
    error_rate_difference: float | None
    kolmogorov_smirnov: float | None
    wasserstein: float | None


def side(version: str, *, requests: int, errors: int, histogram: Histogram) -> Side:
    """One version's numbers."""
    return Side(
        version=version,
        requests=requests,
        errors=errors,
        error_rate=errors / requests if requests else None,
        count=histogram.count,
        mean=mean_of(histogram),
        quantiles={str(q): quantile(histogram, q) for q in QUANTILES},
    )


def compared(base: Side, candidate: Side, *, base_values: Histogram, candidate_values: Histogram) -> Comparison:
    """Both, and how far apart they are."""
    return Comparison(
        base=base,
        candidate=candidate,
        mean_difference=_difference(base.mean, candidate.mean),
        error_rate_difference=_difference(base.error_rate, candidate.error_rate),
        kolmogorov_smirnov=kolmogorov_smirnov(base_values, candidate_values),
        wasserstein=wasserstein(base_values, candidate_values),
    )


def mean_of(histogram: Histogram) -> float | None:
    """The exact mean; None for no value."""
    return histogram.sum / histogram.count if histogram.count else None


def kolmogorov_smirnov(left: Histogram, right: Histogram) -> float | None:
    """The largest difference of the two distribution functions; None where a side is empty."""
    if not left.count or not right.count:
        return None
    return max(abs(apart) for _, apart in _steps(left, right))


def wasserstein(left: Histogram, right: Histogram) -> float | None:
    """The area between the two distribution functions; None where a side is empty."""
    if not left.count or not right.count:
        return None
    area, at, apart = 0.0, 0.0, 0.0
    for value, now_apart in _steps(left, right):
        area += abs(apart) * (value - at)
        at, apart = value, now_apart
    return area


def _steps(left: Histogram, right: Histogram) -> Iterator[tuple[float, float]]:
    """Each value in order, and by how much the two distribution functions differ from there on."""
    sub = min(left.sub, right.sub)
    one, other = coarsened(left, sub), coarsened(right, sub)
    seen_one = seen_other = 0
    for index in sorted(one.buckets.keys() | other.buckets.keys()):
        seen_one += one.buckets.get(index, 0)
        seen_other += other.buckets.get(index, 0)
        yield sum(bounds_of(index, sub)) / 2, seen_one / one.count - seen_other / other.count


def _difference(base: float | None, candidate: float | None) -> float | None:
    return None if base is None or candidate is None else candidate - base
