"""Distances of two distributions: against the exact ones over the raw values, and as distances behave."""

import bisect
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.decide.comparison import compared, kolmogorov_smirnov, side, wasserstein
from shared.protocol.telemetry import RELATIVE_ERROR, Histogram, coarsened, histogram_of

VALUES = st.lists(st.floats(1e-4, 100.0), min_size=1, max_size=30)


def _exact(left: list[float], right: list[float]) -> tuple[float, float]:
    """Both distances, over the values themselves."""
    one, other = sorted(left), sorted(right)
    edges = sorted({*one, *other})

    def apart(at: float) -> float:
        return bisect.bisect_right(one, at) / len(one) - bisect.bisect_right(other, at) / len(other)

    area = sum(abs(apart(a)) * (b - a) for a, b in itertools.pairwise(edges))
    return max(abs(apart(at)) for at in edges), area


@given(VALUES, VALUES)
def test_as_distances_behave(left: list[float], right: list[float]) -> None:
    one, other = histogram_of(left), histogram_of(right)
    for distance in (kolmogorov_smirnov, wasserstein):
        there, back, none = distance(one, other), distance(other, one), distance(one, one)
        assert there is not None
        assert there >= 0.0
        assert there == pytest.approx(back)
        assert none == 0.0
        assert distance(one, Histogram()) is None
        assert distance(Histogram(), one) is None
    assert (kolmogorov_smirnov(one, other) or 0.0) <= 1.0


@given(VALUES, VALUES)
def test_wasserstein_is_exact_within_the_error_of_the_values(left: list[float], right: list[float]) -> None:
    _, truth = _exact(left, right)
    found = wasserstein(histogram_of(left), histogram_of(right))
    error = RELATIVE_ERROR * (sum(left) / len(left) + sum(right) / len(right))
    assert found == pytest.approx(truth, abs=error * 1.001 + 1e-9)


def test_both_on_many_values() -> None:
    dice = random.Random(3)
    left = [dice.lognormvariate(-4.0, 0.5) for _ in range(5000)]
    right = [dice.lognormvariate(-3.8, 0.6) for _ in range(4000)]
    ks, area = _exact(left, right)
    one, other = histogram_of(left), histogram_of(right)
    assert kolmogorov_smirnov(one, other) == pytest.approx(ks, abs=0.02)
    assert wasserstein(one, other) == pytest.approx(area, rel=0.05)
    assert wasserstein(coarsened(one, 16), other) == pytest.approx(area, rel=0.1)


def test_the_sides_and_their_differences() -> None:
    base_values, candidate_values = histogram_of([0.1, 0.2]), histogram_of([0.3])
    base = side("1.0.0", requests=4, errors=1, histogram=base_values)
    candidate = side("1.1.0", requests=2, errors=1, histogram=candidate_values)
    found = compared(base, candidate, base_values=base_values, candidate_values=candidate_values)
    assert (found.base.error_rate, found.candidate.error_rate, found.error_rate_difference) == (0.25, 0.5, 0.25)
    assert found.mean_difference == pytest.approx(0.15)
    assert found.kolmogorov_smirnov == 1.0
    assert found.base.quantiles["0.5"] == pytest.approx(0.1, rel=RELATIVE_ERROR)
    nothing = side("2.0.0", requests=0, errors=0, histogram=Histogram())
    empty = compared(base, nothing, base_values=base_values, candidate_values=Histogram())
    assert (empty.candidate.error_rate, empty.candidate.mean, empty.candidate.quantiles["0.99"]) == (None, None, None)
    assert (empty.mean_difference, empty.kolmogorov_smirnov, empty.wasserstein) == (None, None, None)
