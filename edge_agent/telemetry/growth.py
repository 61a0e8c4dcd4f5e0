"""What the engine's own counters grew by since they were last looked at: work per model version, cache looks by result.

Requests pay nothing for it: they are counted once, for `/metrics`, and telemetry takes differences when an interval ends.
"""

from collections.abc import Iterator, Mapping

from shared.io.tallies import Count, Distribution, Distributions
from shared.protocol.telemetry import SUB, Histogram, Work
from shared.serving.cache.response_cache import CacheMetrics
from shared.serving.metrics import EngineMetrics

Version = tuple[str, ...]
"""Model and version."""


class _Grown:
    """One metric's histograms, and what they held before."""

    def __init__(self, source: Distributions) -> None:
        self._source = source
        self._grid = source.grid()
        self._before: dict[Version, tuple[list[int], float]] = {}

    def take(self) -> Iterator[tuple[Version, Histogram]]:
        """Those that grew, by how much."""
        for version, cell in self._source.cells().items():
            buckets, total = self._before.get(version, ([], 0.0))
            if buckets == cell.buckets:
                continue
            self._before[version] = list(cell.buckets), cell.sum
            yield version, self._difference(cell, buckets or [0] * len(cell.buckets), total)

    def _difference(self, cell: Distribution, before: list[int], total: float) -> Histogram:
        grown: dict[int, int] = {}
        for index, now, then in zip(self._grid, cell.buckets, before, strict=True):
            if now != then:
                grown[index] = grown.get(index, 0) + now - then
        return Histogram(count=sum(grown.values()), sum=cell.sum - total, buckets=grown, sub=SUB)


class Growth:
    """Owner of what the counters stood at; event loop only."""

    def __init__(self, engine: EngineMetrics, cache: CacheMetrics | None = None) -> None:
        """From nothing: what was counted before is part of the first difference."""
        self._queue, self._compute, self._sizes = (
            _Grown(engine.queue),
            _Grown(engine.compute),
            _Grown(engine.batch_size),
        )
        self._cache = cache
        self._before: dict[str, float] = {}

    def work(self, confidence: Mapping[Version, Histogram]) -> tuple[Work, ...]:
        """Queue, compute and batch sizes since the last call, with the `confidence` of the same versions' answers."""
        parts = {
            "queue": dict(self._queue.take()),
            "compute": dict(self._compute.take()),
            "sizes": dict(self._sizes.take()),
            "confidence": confidence,
        }
        versions = sorted({version for part in parts.values() for version in part})
        return tuple(
            Work(
                model=version[0],
                version=version[1],
                **{name: part[version] for name, part in parts.items() if version in part},
            )
            for version in versions
        )

    def cache(self) -> dict[str, int]:
        """Looks into the response cache since the last call, by result."""
        return {} if self._cache is None else _grown(self._cache.looked.cells(), self._before)


def _grown(cells: Mapping[tuple[str, ...], Count], before: dict[str, float]) -> dict[str, int]:
    grown: dict[str, int] = {}
    for (name,), cell in cells.items():
        if more := int(cell.value - before.get(name, 0.0)):
            grown[name] = more
        before[name] = cell.value
    return grown
