"""Is the new version as good as the one before it, on the very devices that ran both?  Live evidence, judged. Pure.

Each check states a difference that would matter (its limit) and a test of whether chance could have made it; it is bad only where
both say so, and says nothing below a minimum sample on either side. Each device is held against itself, and only then are devices
put together: they differ more among themselves than versions do. All tests are `significance`'s:

* latency (p50, p99, on the device): requests slower than limit x the device's own former quantile, Fisher's exact test for one
  device, Mantel and Haenszel's for several; and so many of the new version's requests must be slower that its quantile is beyond;
* errors, non-finite answers, saturation, disagreement with the cloud: shares of requests, the same tests;
* score drift: Kolmogorov-Smirnov between the distributions of confidence, and of each label's scores, the former version's weighted
  by how much each device answered since.

The evidence of a wave is looked at again and again while it soaks. The chance that an equal version is stopped is kept below
`false_alarm` over the whole rollout by dividing it among all waves, looks and checks (Bonferroni), whatever depends on what.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from cloud_core.decide.comparison import mean_of
from cloud_core.decide.rollup import LOCAL, Cell, added
from cloud_core.decide.significance import Table, difference, drifted, more_often
from shared.protocol.telemetry import Histogram, bounds_of, coarsened, merged, quantile

LOOK_S = 60.0
"""Evidence comes in windows of a minute: there is nothing new to see more often."""
CHECKS = 8
"""By how many checks the false alarm is divided; labels share one of them."""
SATURATED = ("reasons/local-saturated", "reasons/cloud-saturated", "reasons/both-late")
_SCORES = "scores/"


class Outcome(StrEnum):
    """What a check says."""

    GOOD = "good"
    BAD = "bad"
    TOO_FEW = "too-few"


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What would matter. Ratios are of the base's quantile; shares (0 to 1) are above the base's; `score_drift` is a distance."""

    p50_ratio: float = 1.25
    p99_ratio: float = 1.5
    error_rate: float = 0.01
    non_finite_rate: float = 0.001
    saturation_rate: float = 0.05
    disagreement_rate: float = 0.05
    score_drift: float = 0.2
    min_requests: int = 200
    false_alarm: float = 0.01


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What one version did. Seconds for latency, which is of what the device answered itself."""

    requests: int = 0
    errors: int = 0
    saturated: int = 0
    compared: int = 0
    differed: int = 0
    latency: Histogram = Histogram()
    confidence: Histogram = Histogram()
    scores: Mapping[str, Histogram] = {}


class Pair(NamedTuple):
    """One device that ran both versions."""

    base: Side
    candidate: Side


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Both versions, device by device."""

    pairs: tuple[Pair, ...]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check with its numbers: values of both sides over all devices (for people), how many there were, and the limit.

    `difference`: what is held against the limit, device by device; of latency, the share of requests beyond it.
    `chance`: of so large a difference between equal versions.
    """

    name: str
    outcome: Outcome
    base: float | None = None
    candidate: float | None = None
    limit: float
    difference: float | None = None
    chance: float | None = None
    base_count: int = 0
    candidate_count: int = 0


def evidence_of(cells: Mapping[str, tuple[Mapping[str, Cell], Mapping[str, Cell]]]) -> Evidence:
    """Evidence from history: by device, the cells of (base, candidate) by place. Devices that lack a side are left out."""
    pairs = [Pair(_side(base), _side(candidate)) for base, candidate in cells.values()]
    return Evidence(pairs=tuple(pair for pair in pairs if pair.base.requests and pair.candidate.requests))


def judge(evidence: Evidence, limits: Limits, *, waves: int, looks: int) -> tuple[Check, ...]:
    """Every check. `waves` of the rollout and `looks` at each share the chance of a false alarm."""
    alpha = limits.false_alarm / (CHECKS * max(1, waves) * max(1, looks))
    pairs, least = evidence.pairs, limits.min_requests

    def share(name: str, limit: float, counted: Callable[[Side], tuple[int, int]]) -> Check:
        return _share(
            name, limit, [Table(*counted(new), *counted(old)) for old, new in pairs], alpha=alpha, least=least
        )

    labels = sorted({label for old, new in pairs for label in old.scores.keys() & new.scores.keys()})
    return (
        _latency("latency-p50", 0.5, limits.p50_ratio, pairs, alpha=alpha, least=least),
        _latency("latency-p99", 0.99, limits.p99_ratio, pairs, alpha=alpha, least=least),
        share("errors", limits.error_rate, lambda side: (side.errors, side.requests)),
        share("non-finite", limits.non_finite_rate, _non_finite),
        share("saturation", limits.saturation_rate, lambda side: (side.saturated, side.requests)),
        share("disagreement", limits.disagreement_rate, lambda side: (side.differed, side.compared)),
        _drift("confidence", limits, [(old.confidence, new.confidence) for old, new in pairs], alpha=alpha),
        *(
            _drift(
                _SCORES + label,
                limits,
                [
                    (old.scores[label], new.scores[label])
                    for old, new in pairs
                    if label in old.scores.keys() & new.scores
                ],
                alpha=alpha / len(labels),
            )
            for label in labels
        ),
    )


def outcome_of(checks: Iterable[Check]) -> Outcome:
    """Bad where one is; too few where nothing was said; else good."""
    outcomes = {check.outcome for check in checks}
    if Outcome.BAD in outcomes:
        return Outcome.BAD
    return Outcome.GOOD if Outcome.GOOD in outcomes else Outcome.TOO_FEW


def _share(name: str, limit: float, tables: Sequence[Table], *, alpha: float, least: int) -> Check:
    bad, of, base_bad, base_of = (sum(column) for column in zip(*tables, strict=True)) if tables else (0, 0, 0, 0)
    apart = difference(tables)
    if apart is None or min(base_of, of) < least:
        return Check(name=name, outcome=Outcome.TOO_FEW, limit=limit, base_count=base_of, candidate_count=of)
    chance = more_often(tables)
    return Check(
        name=name,
        outcome=Outcome.BAD if apart > limit and chance < alpha else Outcome.GOOD,
        base=base_bad / base_of,
        candidate=bad / of,
        limit=limit,
        difference=apart,
        chance=chance,
        base_count=base_of,
        candidate_count=of,
    )


def _latency(name: str, q: float, ratio: float, pairs: Sequence[Pair], *, alpha: float, least: int) -> Check:
    # A quantile of fewer values than this is as good as their largest one.
    enough = max(20.0, 2.0 / (1.0 - q))
    bases = [(pair, quantile(pair.base.latency, q)) for pair in pairs if pair.base.latency.count >= enough]
    tables = [
        Table(_above(new.latency, ratio * was), new.latency.count, _above(old.latency, ratio * was), old.latency.count)
        for (old, new), was in bases
        if was is not None and new.latency.count
    ]
    of, base_of = sum(each.of for each in tables), sum(each.base_of for each in tables)
    if min(of, base_of) < least:
        return Check(name=name, outcome=Outcome.TOO_FEW, limit=ratio, base_count=base_of, candidate_count=of)
    beyond, chance = sum(each.bad for each in tables) / of, more_often(tables)
    return Check(
        name=name,
        outcome=Outcome.BAD if beyond > 1.0 - q and chance < alpha else Outcome.GOOD,
        base=quantile(merged(pair.base.latency for pair, _ in bases), q),
        candidate=quantile(merged(pair.candidate.latency for pair, _ in bases), q),
        limit=ratio,
        difference=beyond,
        chance=chance,
        base_count=base_of,
        candidate_count=of,
    )


def _drift(name: str, limits: Limits, pairs: Sequence[tuple[Histogram, Histogram]], *, alpha: float) -> Check:
    full = [(old, new) for old, new in pairs if old.count and new.count]
    limit, of, base_of = limits.score_drift, sum(new.count for _, new in full), sum(old.count for old, _ in full)
    if min(of, base_of) < limits.min_requests:
        return Check(name=name, outcome=Outcome.TOO_FEW, limit=limit, base_count=base_of, candidate_count=of)
    apart = _apart(full, of)
    # So many values of one distribution would tell as much as the weighted ones do.
    worth = 1.0 / sum((new.count / of) ** 2 / old.count for old, new in full)
    chance = drifted(apart, of, worth)
    return Check(
        name=name,
        outcome=Outcome.BAD if apart > limit and chance < alpha else Outcome.GOOD,
        base=mean_of(merged(old for old, _ in full)),
        candidate=mean_of(merged(new for _, new in full)),
        limit=limit,
        difference=apart,
        chance=chance,
        base_count=base_of,
        candidate_count=of,
    )


def _apart(pairs: Sequence[tuple[Histogram, Histogram]], of: int) -> float:
    """Kolmogorov and Smirnov's distance, each device's former values weighted by what it answered since."""
    sub = min(each.sub for pair in pairs for each in pair)
    by_bucket: dict[int, float] = {}
    for old, new in pairs:
        for histogram, weight in ((new, 1.0 / of), (old, -new.count / of / old.count)):
            for index, n in coarsened(histogram, sub).buckets.items():
                by_bucket[index] = by_bucket.get(index, 0.0) + weight * n
    return max(abs(total) for total in itertools.accumulate(by_bucket[index] for index in sorted(by_bucket)))


def _non_finite(side: Side) -> tuple[int, int]:
    """Telemetry counts what is no number in the first bucket, where no confidence that is one ever falls: it is 1/labels at least."""
    return side.confidence.buckets.get(0, 0), side.confidence.count


def _above(histogram: Histogram, bound: float) -> int:
    return sum(n for index, n in histogram.buckets.items() if bounds_of(index, histogram.sub)[0] >= bound)


def _side(places: Mapping[str, Cell]) -> Side:
    whole, local = added(places.values()), places.get(LOCAL, Cell())
    return Side(
        requests=whole.counts.get("requests", 0),
        errors=whole.counts.get("errors", 0),
        saturated=sum(whole.counts.get(reason, 0) for reason in SATURATED),
        compared=whole.counts.get("compared", 0),
        differed=whole.counts.get("compared/differ", 0),
        latency=local.histograms.get("latency", Histogram()),
        confidence=local.histograms.get("confidence", Histogram()),
        scores={
            name.removeprefix(_SCORES): histogram
            for name, histogram in local.histograms.items()
            if name.startswith(_SCORES)
        },
    )
