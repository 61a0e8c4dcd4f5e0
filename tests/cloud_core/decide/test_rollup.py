"""History adds up: a window is what its samples say, in whatever order and in how many steps they were added."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.decide.rollup import Cell, Key, added, cells_of, window_of
from shared.protocol.telemetry import (
    RELATIVE_ERROR,
    Event,
    Histogram,
    Host,
    RequestCount,
    Sample,
    Work,
    histogram_of,
    quantile,
)

HOST = Host(cpu=0.5, memory=0.25, disk_free_bytes=10, agent_memory_bytes=1)
WORDS = st.sampled_from(("a", "b"))
HISTOGRAMS = st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=5).map(histogram_of)


@st.composite
def _requests(draw: st.DrawFn) -> RequestCount:
    latency = draw(HISTOGRAMS)
    outcome = draw(st.sampled_from(("ok", "timeout")))
    return RequestCount(
        model=draw(WORDS), version=draw(WORDS), where=draw(st.sampled_from(("local", "cloud"))),
        outcome=outcome, reason=draw(WORDS), count=latency.count, latency=latency,
    )  # fmt: skip


SAMPLES = st.builds(
    Sample,
    seq=st.integers(0, 9),
    started_at=st.just(0.0),
    ended_at=st.just(10.0),
    host=st.just(HOST),
    requests=st.lists(_requests(), max_size=3).map(tuple),
    work=st.lists(st.builds(Work, model=WORDS, version=WORDS, queue=HISTOGRAMS), max_size=2).map(tuple),
    shed=st.dictionaries(WORDS, st.integers(1, 9), max_size=2),
    dropped=st.dictionaries(WORDS, st.integers(1, 9), max_size=2),
)


def same(left: Cell, right: Cell) -> bool:
    """Equal, sums of floats up to rounding."""
    return (
        left.counts == right.counts
        and left.histograms.keys() == right.histograms.keys()
        and all(_same(one, right.histograms[name]) for name, one in left.histograms.items())
        and left.gauges.keys() == right.gauges.keys()
        and all(
            (one.count, one.least, one.most) == (other.count, other.least, other.most)
            and math.isclose(one.sum, other.sum, abs_tol=1e-9)
            for name, one in left.gauges.items()
            for other in (right.gauges[name],)
        )
    )


def _same(left: Histogram, right: Histogram) -> bool:
    return (left.count, left.buckets, left.sub) == (right.count, right.buckets, right.sub) and math.isclose(
        left.sum, right.sum, rel_tol=1e-9, abs_tol=1e-9
    )


@given(st.lists(SAMPLES, max_size=6), st.randoms(use_true_random=False), st.integers(0, 6))
def test_any_order_and_any_steps_give_the_same_cells(samples: list[Sample], dice: random.Random, cut: int) -> None:
    said = [cells_of(sample) for sample in samples]
    keys = {key for cells in said for key in cells}
    shuffled = dice.sample(said, len(said))
    for key in keys:
        whole = added(cells[key] for cells in said if key in cells)
        steps = (shuffled[:cut], shuffled[cut:])
        stepwise = added(added(cells[key] for cells in step if key in cells) for step in steps)
        assert same(whole, stepwise)


@given(st.lists(SAMPLES, max_size=6))
def test_nothing_is_lost_on_the_way_into_cells(samples: list[Sample]) -> None:
    cells = [cell for sample in samples for cell in cells_of(sample).values()]

    def count(name: str) -> int:
        return sum(cell.counts.get(name, 0) for cell in cells)

    assert count("requests") == sum(one.count for sample in samples for one in sample.requests)
    assert count("requests/ok") + count("errors") == count("requests")
    assert count("shed") == sum(sum(sample.shed.values()) for sample in samples)
    assert count("dropped") == sum(sum(sample.dropped.values()) for sample in samples)
    assert count("samples") == len(samples)


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99, 0.999])
def test_a_fleets_quantile_is_a_quantile_and_no_average(q: float) -> None:
    dice = random.Random(7)
    slow = [dice.lognormvariate(0.0, 1.0) for _ in range(3000)]
    fast = [[dice.lognormvariate(-5.0, 0.5) for _ in range(3000)] for _ in range(9)]
    devices = [slow, *fast]
    cell = added(Cell(histograms={"latency": histogram_of(values)}) for values in devices)
    exact = sorted(value for values in devices for value in values)
    truth = exact[max(1, math.ceil(q * len(exact))) - 1]
    found = quantile(cell.histograms["latency"], q)
    assert found == pytest.approx(truth, rel=RELATIVE_ERROR)


def test_a_record_of_events_is_no_interval() -> None:
    sample = Sample(
        seq=1,
        started_at=0.0,
        ended_at=0.0,
        host=HOST,
        events=(Event(at=0.0, kind="failed"), Event(at=0.0, kind="failed")),
    )
    assert cells_of(sample) == {Key(): Cell(counts={"events/failed": 2})}


def test_a_sample_counts_in_the_window_its_middle_lies_in() -> None:
    def window(start: float, end: float, seconds: int) -> int:
        return window_of(Sample(seq=1, started_at=start, ended_at=end, host=HOST), seconds)

    assert window(0.0, 10.0, 10) == 0
    assert window(4.0, 14.0, 10) == 0
    assert window(6.0, 16.0, 10) == 10
    assert window(3595.0, 3606.0, 3600) == 3600
    assert window(-3.0, -1.0, 60) == -60


def test_names_that_no_row_can_hold_are_made_to_fit() -> None:
    latency = histogram_of([1.0])
    one = RequestCount(
        model="m" * 100, version="1\0", where="local", outcome="ok", reason="r", count=1, latency=latency
    )
    sample = Sample(seq=1, started_at=0.0, ended_at=1.0, host=HOST, requests=(one,))
    assert Key("m" * 64, "1", "local") in cells_of(sample)
