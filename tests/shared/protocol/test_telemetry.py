import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.telemetry import (
    OCTAVES,
    RELATIVE_ERROR,
    SUB,
    UNIT,
    Batch,
    Histogram,
    Host,
    Sample,
    Sub,
    bounds_of,
    bucket_of,
    coarsened,
    histogram_of,
    merged,
    observe,
    quantile,
)

QUANTILES = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0)
ROUNDING = 1e-9
values = st.floats(UNIT, 1e6) | st.floats(0.0001, 0.1) | st.sampled_from([0.001, 0.5, 1.0, 2.0**-10, 1e-6])
subs = st.sampled_from([16, 32])


def coarse_or_fine(numbers: list[float], sub: Sub) -> Histogram:
    return coarsened(histogram_of(numbers), sub)


histograms = st.builds(coarse_or_fine, st.lists(values, max_size=30), subs)


def exact(numbers: list[float], q: float) -> float:
    return sorted(numbers)[max(1, math.ceil(q * len(numbers))) - 1]


@given(st.lists(st.lists(values, max_size=200), min_size=1, max_size=5).filter(any))
def test_merged_quantiles_are_within_the_stated_error_of_exact_ones(parts: list[list[float]]) -> None:
    whole = merged(histogram_of(part) for part in parts)
    numbers = [number for part in parts for number in part]
    assert (whole.count, whole.sub) == (len(numbers), SUB)
    assert whole.sum == pytest.approx(math.fsum(numbers))
    for q in QUANTILES:
        found = quantile(whole, q)
        assert found is not None
        assert abs(found / exact(numbers, q) - 1.0) <= RELATIVE_ERROR + ROUNDING


@given(st.lists(values, min_size=1, max_size=200), subs)
def test_a_coarser_grid_keeps_its_own_error(numbers: list[float], sub: Sub) -> None:
    histogram = coarse_or_fine(numbers, sub)
    for q in QUANTILES:
        found = quantile(histogram, q)
        assert found is not None
        assert abs(found / exact(numbers, q) - 1.0) <= 1 / (2 * sub) + ROUNDING


@given(histograms, histograms, histograms)
def test_merging_is_associative_and_commutative(a: Histogram, b: Histogram, c: Histogram) -> None:
    def counts(histogram: Histogram) -> tuple[int, int, dict[int, int]]:
        return histogram.count, histogram.sub, histogram.buckets

    together = merged((a, b, c))
    assert counts(merged((merged((a, b)), c))) == counts(merged((a, merged((b, c))))) == counts(together)
    assert counts(merged((c, a, b))) == counts(together)
    assert merged((c, a, b)).sum == pytest.approx(together.sum)
    assert counts(merged((a, Histogram()))) == counts(merged((a,)))


@given(values, subs)
def test_a_bucket_holds_its_values(value: float, sub: Sub) -> None:
    low, high = bounds_of(bucket_of(value, sub), sub)
    assert low * (1 - ROUNDING) <= value <= high * (1 + ROUNDING)


@given(st.lists(values, max_size=50))
def test_a_coarser_grid_is_the_one_of_its_own(numbers: list[float]) -> None:
    own: dict[int, int] = {}
    for number in numbers:
        own[bucket_of(number, 16)] = own.get(bucket_of(number, 16), 0) + 1
    assert coarse_or_fine(numbers, 16).buckets == own


@given(histograms)
def test_the_wire_gives_back_what_it_was_given(histogram: Histogram) -> None:
    assert msgspec.json.decode(msgspec.json.encode(histogram), type=Histogram) == histogram


@pytest.mark.parametrize("value", [0.0, -1.0, UNIT / 2, math.nan, -math.inf])
def test_what_is_too_small_or_no_number_falls_into_the_first_bucket(value: float) -> None:
    assert bucket_of(value) == 0


@pytest.mark.parametrize("value", [1e9, 1e300, math.inf])
def test_what_is_too_large_falls_into_the_last_bucket(value: float) -> None:
    assert bucket_of(value) == OCTAVES * SUB


def test_of_nothing_there_is_no_quantile() -> None:
    assert quantile(Histogram(), 0.5) is None
    assert merged(()) == Histogram()


def test_a_first_value_is_on_the_fine_grid() -> None:
    assert observe(Histogram(), 0.004) == histogram_of([0.004])
    assert observe(observe(Histogram(), 0.004), 0.006).sub == SUB


@pytest.mark.parametrize(
    "wire",
    [
        {"count": 2, "sum": 1.0, "buckets": {"5": 1}, "sub": 32},
        {"count": -1, "sum": 1.0, "buckets": {"5": -1}, "sub": 32},
        {"count": 1, "sum": 1.0, "buckets": {"-5": 1}, "sub": 32},
        {"count": 1, "sum": 1.0, "buckets": {"100000": 1}, "sub": 32},
        {"count": 1, "sum": 1.0, "buckets": {"x": 1}, "sub": 32},
        {"count": 1, "sum": 1.0, "buckets": {"5": 1}, "sub": 17},
        {"count": 2**60, "sum": 1.0, "buckets": {"5": 2**60}, "sub": 32},
    ],
)
def test_a_histogram_that_cannot_be_is_refused(wire: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(wire), type=Histogram)


def test_what_was_written_before_is_read() -> None:
    # One batch as the first form of the wire wrote it: 16 parts that nobody named, every field spelled out.
    before = {
        "epoch": 3,
        "samples": [
            {
                "seq": 7,
                "started_at": 1.0,
                "ended_at": 11.0,
                "host": {
                    "cpu": 0.1,
                    "memory": 0.2,
                    "disk_free_bytes": 1,
                    "agent_memory_bytes": 2,
                    "temperature_c": None,
                },
                "requests": [
                    {
                        "model": "m",
                        "version": "1.0.0",
                        "where": "local",
                        "outcome": "ok",
                        "reason": "mode",
                        "count": 3,
                        "latency": {"count": 3, "sum": 0.06, "buckets": {"228": 2, "244": 1}},
                    }
                ],
                "shed": {},
                "dropped": {"spool-full": 2},
                "shadows": [],
            }
        ],
    }
    (sample,) = msgspec.json.decode(json.dumps(before), type=Batch).samples
    latency = sample.requests[0].latency
    assert (latency.sub, latency.buckets) == (16, {228: 2, 244: 1})
    assert bounds_of(228, 16) == pytest.approx((0.019456, 0.02048))
    assert quantile(latency, 0.5) == pytest.approx(0.02, rel=1 / 32)
    assert merged((latency, histogram_of([0.02]))).buckets == {228: 3, 244: 1}
    assert sample.dropped == {"spool-full": 2}


def test_an_idle_sample_says_only_what_there_is() -> None:
    host = Host(cpu=0.1, memory=0.2, disk_free_bytes=1, agent_memory_bytes=1)
    wire = json.loads(msgspec.json.encode(Sample(seq=1, started_at=0.0, ended_at=1.0, host=host)))
    assert set(wire) == {"seq", "started_at", "ended_at", "host"}
    assert set(wire["host"]) == {"cpu", "memory", "disk_free_bytes", "agent_memory_bytes"}


def test_what_is_no_number_is_counted_and_still_travels() -> None:
    made = histogram_of([math.nan, 0.5, math.inf])
    assert (made.count, made.sum, made.buckets[0]) == (3, 0.5, 1)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Histogram) == made
