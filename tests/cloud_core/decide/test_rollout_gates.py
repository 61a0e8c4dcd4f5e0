"""Gates on evidence: what is too little says nothing, what does not matter is good, and devices are held against themselves."""

import math
import random

import pytest

from cloud_core.decide.rollout_gates import Check, Evidence, Limits, Outcome, Pair, Side, evidence_of, judge, outcome_of
from cloud_core.decide.rollup import Cell
from shared.protocol.telemetry import histogram_of


def side(requests: int = 1000, *, median: float = 0.02, seed: int = 1, **counts: int) -> Side:
    draw = random.Random(seed)
    latency = histogram_of(draw.lognormvariate(math.log(median), 0.5) for _ in range(requests))
    scores = histogram_of(draw.betavariate(8, 2) for _ in range(requests))
    return Side(
        requests=requests, compared=requests, latency=latency, confidence=scores, scores={"yes": scores}, **counts
    )


def judged(*pairs: Pair, **limits: float) -> dict[str, Check]:
    checks = judge(Evidence(pairs=pairs), Limits(**limits), waves=4, looks=11)  # type: ignore[arg-type]
    return {check.name: check for check in checks}


def test_below_the_least_sample_nothing_is_said() -> None:
    found = judged(Pair(side(1000), side(199, median=10.0, errors=199)))
    assert {check.outcome for check in found.values()} == {Outcome.TOO_FEW}
    assert outcome_of(found.values()) is Outcome.TOO_FEW
    assert found["errors"].candidate_count == 199
    assert judged() != {}
    assert outcome_of(judged().values()) is Outcome.TOO_FEW


def test_a_difference_that_is_sure_and_does_not_matter_is_good() -> None:
    found = judged(Pair(side(50_000, errors=50), side(50_000, seed=2, median=0.022, errors=500)))
    assert found["errors"].chance == pytest.approx(0.0, abs=1e-9)
    assert found["latency-p50"].outcome is found["errors"].outcome is Outcome.GOOD


@pytest.mark.parametrize(
    ("name", "counts"),
    [("errors", {"errors": 40}), ("saturation", {"saturated": 90}), ("disagreement", {"differed": 90})],
)
def test_a_larger_share_is_bad_by_its_name_alone(name: str, counts: dict[str, int]) -> None:
    found = judged(Pair(side(seed=1), side(seed=2, **counts)))
    assert [each.name for each in found.values() if each.outcome is Outcome.BAD] == [name]
    assert (found[name].base, found[name].candidate) == (0.0, sum(counts.values()) / 1000)


def test_devices_that_answer_unequally_are_no_regression() -> None:
    """A slow device that answered more since than a fast one: pooled, the median is beyond the limit. It was taken for one once."""
    slow = Pair(side(1200, median=0.04, seed=1), side(1500, median=0.04, seed=2))
    fast = Pair(side(1200, median=0.01, seed=3), side(300, median=0.01, seed=4))
    found = judged(slow, fast)
    p50 = found["latency-p50"]
    assert p50.base is not None
    assert p50.candidate is not None
    assert p50.candidate > p50.limit * p50.base
    assert {check.outcome for check in found.values()} == {Outcome.GOOD}


def test_one_device_of_many_that_got_slower_does_not_hide() -> None:
    others = [Pair(side(seed=2 * i), side(seed=2 * i + 1)) for i in range(3)]
    found = judged(Pair(side(seed=20), side(seed=21, median=0.2)), *others)
    assert found["latency-p99"].outcome is Outcome.BAD


def test_evidence_is_of_devices_that_ran_both() -> None:
    ran = Cell(counts={"requests": 10, "errors": 1, "reasons/local-saturated": 2, "compared": 4, "compared/differ": 3})
    found = evidence_of({
        "both": ({"local": ran}, {"local": ran, "cloud": ran}),
        "new-only": ({}, {"local": ran}),
        "idle": ({"local": ran}, {"local": Cell()}),
    })  # fmt: skip
    ((old, new),) = found.pairs
    assert (old.requests, new.requests, new.errors, new.saturated, new.compared, new.differed) == (10, 20, 2, 4, 8, 6)
