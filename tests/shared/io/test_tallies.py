from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from shared.io.tallies import Counts, Distributions

BUCKETS = (0.001, 0.1, 1.0, 2.5, 30.0)
values = st.one_of(st.floats(0, 100), st.sampled_from(BUCKETS))


@given(st.lists(st.tuples(st.sampled_from(["a", 'b"\n']), values), max_size=50))
def test_what_is_exported_is_what_the_library_s_own_would_export(samples):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counted = Counts("tideline_things", "Things", ("kind",), registry=ours)
    spread = Distributions("tideline_seconds", "Seconds", ("kind",), buckets=BUCKETS, registry=ours)
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
