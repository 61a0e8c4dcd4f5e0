"""Counters and histograms for one thread that counts very often: a plain addition each, read whole whenever metrics are asked for.

They stand in for `prometheus_client`'s own where a request is counted half a dozen times: those take a lock per sample, which
costs as much as a small model's computation. What is exported is the same, through the library's own collector interface.

A distribution may be counted on telemetry's log-linear grid as well: both sets of bounds cut one row of buckets, so that a
sample is still one addition, and both readings are exact.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from shared.protocol.telemetry import SUB, bounds_of, bucket_of


class Count:
    """A number that grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, by: float = 1.0) -> None:
        """Add."""
        self.value += by


class Distribution:
    """How many samples fell into each bucket, and their sum; a bucket's bound is in it."""

    __slots__ = ("bounds", "buckets", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, sample: float) -> None:
        """Add a sample."""
        self.buckets[bisect_left(self.bounds, sample)] += 1
        self.sum += sample


class Counts(Collector):
    """Counters of one name, by label values."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), *, registry: CollectorRegistry) -> None:
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._cells: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The counter of these label values."""
        found = self._cells.get(values)
        if found is None:
            found = self._cells[values] = Count()
        return found

    def cells(self) -> dict[tuple[str, ...], Count]:
        """All of them, by label values."""
        return dict(self._cells)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """What stands now."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, cell in tuple(self._cells.items()):
            family.add_metric(values, cell.value)
        yield family


class Distributions(Collector):
    """Histograms of one name, by label values; `buckets` are upper bounds, rising, without infinity."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
        octaves: range | None = None,
    ) -> None:
        """`octaves`: the powers of two above telemetry's unit that are counted on its grid as well; None for none."""
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._told = tuple(buckets)
        fine = () if octaves is None else (bounds_of(index)[1] for index in _indices(octaves))
        self._bounds = tuple(sorted({*self._told, *fine}))
        self._names = [*(repr(float(bound)) for bound in self._told), "+Inf"]
        self._ends = [*(bisect_left(self._bounds, bound) for bound in self._told), len(self._bounds)]
        self._cells: dict[tuple[str, ...], Distribution] = {}
        registry.register(self)

    def labels(self, *values: str) -> Distribution:
        """The histogram of these label values."""
        found = self._cells.get(values)
        if found is None:
            found = self._cells[values] = Distribution(self._bounds)
        return found

    def cells(self) -> dict[tuple[str, ...], Distribution]:
        """All of them, by label values."""
        return dict(self._cells)

    def grid(self) -> tuple[int, ...]:
        """For each of a cell's buckets, telemetry's bucket it lies in; what is above every bound counts as just above."""
        edges = (0.0, *self._bounds, self._bounds[-1] * (1 + 1 / SUB))
        return tuple(bucket_of((low + high) / 2) for low, high in pairwise(edges))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What stands now."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, cell in tuple(self._cells.items()):
            counts = tuple(accumulate(cell.buckets))
            family.add_metric(
                values,
                [(name, float(counts[end])) for name, end in zip(self._names, self._ends, strict=True)],
                cell.sum,
            )
        yield family


def _indices(octaves: range) -> range:
    return range(1 + octaves.start * SUB, 1 + octaves.stop * SUB)
