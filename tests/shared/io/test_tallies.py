import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from shared.io.tallies import Counts, Distributions
from shared.protocol.telemetry import bounds_of

BUCKETS = (0.001, 0.1, 1.0, 2.5, 30.0)
values = st.one_of(st.floats(0, 100), st.sampled_from(BUCKETS))


@pytest.mark.parametrize("octaves", [None, range(30), range(19, 22)])
@given(st.lists(st.tuples(st.sampled_from(["a", 'b"\n']), values), max_size=50))
def test_what_is_exported_is_what_the_library_s_own_would_export(octaves, samples):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counted = Counts("tideline_things", "Things", ("kind",), registry=ours)
    spread = Distributions("tideline_seconds", "Seconds", ("kind",), buckets=BUCKETS, octaves=octaves, registry=ours)
    counter = Counter("tideline_things", "Things", ("kind",), registry=theirs)
    histogram = Histogram("tideline_seconds", "Seconds", ("kind",), buckets=BUCKETS, registry=theirs)
    for kind, value in samples:
        counted.labels(kind).inc()
        counter.labels(kind).inc()
        spread.labels(kind).observe(value)
        histogram.labels(kind).observe(value)

    def lines(registry):
        # The library's own also tell when each was made.
        return sorted(line for line in generate_latest(registry).decode().splitlines() if "_created" not in line)

    assert lines(ours) == lines(theirs)
    for kind, value in samples[:1]:
        assert ours.get_sample_value("tideline_things_total", {"kind": kind}) >= 1
        assert value is not None


@given(st.lists(st.floats(1e-6, 500) | st.sampled_from(BUCKETS), min_size=1, max_size=50))
def test_the_same_additions_are_exact_on_telemetry_s_grid(samples):
    spread = Distributions("t_seconds", "", buckets=BUCKETS, octaves=range(30), registry=CollectorRegistry())
    cell, grid = spread.labels(), spread.grid()
    for sample in samples:
        cell.observe(sample)
    found = sorted(index for index, n in zip(grid, cell.buckets, strict=True) for _ in range(n))
    for sample, index in zip(sorted(samples), found, strict=True):
        low, high = bounds_of(index)
        assert low * (1 - 1e-9) <= sample <= high * (1 + 1e-9)
