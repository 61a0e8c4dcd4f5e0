"""History: what samples say of one window, as counts, histograms and gauges that add up. Pure.

Adding cells is commutative and associative (sums of floats up to rounding), so a window is a function of the samples in it: it does
not matter in what order or in how many steps they were added, and a quantile of many devices is a quantile, never an average.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from cloud_core.decide.summary import OK
from shared.protocol.telemetry import Histogram, Sample, merged

RESOLUTIONS = (10, 60, 3600)
"""Lengths of windows, in seconds; each divides the next."""
LOCAL = "local"
LONGEST = 64
"""Characters of a name that are kept."""


class Key(NamedTuple):
    """Which requests: empty for what concerns the device itself. `place` is where they were computed: local, cloud, cache."""

    model: str = ""
    version: str = ""
    place: str = ""


class Gauge(msgspec.Struct, frozen=True, kw_only=True):
    """A level that was looked at `count` times."""

    count: int
    sum: float
    least: float
    most: float


class Cell(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one window and key, by metric. A metric with a slash is a part of the one before it: `requests/ok`."""

    counts: dict[str, int] = {}
    histograms: dict[str, Histogram] = {}
    gauges: dict[str, Gauge] = {}


def window_of(sample: Sample, seconds: int) -> int:
    """Where the window begins that the sample counts in: the one its middle lies in."""
    return int((sample.started_at + sample.ended_at) / 2 // seconds) * seconds


def added(cells: Iterable[Cell]) -> Cell:
    """All of them in one."""
    counts: dict[str, int] = {}
    histograms: dict[str, list[Histogram]] = {}
    gauges: dict[str, list[Gauge]] = {}
    for cell in cells:
        for name, count in cell.counts.items():
            counts[name] = counts.get(name, 0) + count
        for name, histogram in cell.histograms.items():
            histograms.setdefault(name, []).append(histogram)
        for name, gauge in cell.gauges.items():
            gauges.setdefault(name, []).append(gauge)
    return Cell(
        counts=counts,
        histograms={name: each[0] if len(each) == 1 else merged(each) for name, each in histograms.items()},
        gauges={name: _gauge(each) for name, each in gauges.items()},
    )


def cells_of(sample: Sample) -> dict[Key, Cell]:
    """What one sample says, by key."""
    parts: dict[Key, list[Cell]] = {}
    for key, cell in _parts(sample):
        parts.setdefault(Key(*(name[:LONGEST].replace("\0", "") for name in key)), []).append(cell)
    return {key: added(cells) for key, cells in parts.items()}


def _parts(sample: Sample) -> Iterator[tuple[Key, Cell]]:
    for one in sample.requests:
        counts = {"requests": one.count, f"requests/{one.outcome}": one.count, f"reasons/{one.reason}": one.count}
        if one.outcome != OK:
            counts["errors"] = one.count
        yield Key(one.model, one.version, one.where), Cell(counts=counts, histograms=_full(latency=one.latency))
    for work in sample.work:
        histograms = _full(queue=work.queue, compute=work.compute, batch_size=work.sizes, confidence=work.confidence)
        yield Key(work.model, work.version, LOCAL), Cell(histograms=histograms)
    for label in sample.scores:
        cell = Cell(histograms={f"scores/{label.label}": label.scores})
        yield Key(label.model, label.version, LOCAL), cell
    for copy in sample.shadows:
        counts = {"shadows": copy.count, f"shadows/{copy.result}": copy.count}
        yield Key(copy.model, copy.version, LOCAL), Cell(counts=counts)
    for pair in sample.disagreements:
        counts = {"compared": pair.count, f"compared/{pair.result}": pair.count}
        yield Key(pair.model, pair.version, LOCAL), Cell(counts=counts)
    yield Key(), _of_the_device(sample)


def _of_the_device(sample: Sample) -> Cell:
    counts: dict[str, int] = {}
    if not sample.events:  # those travel by themselves: no interval, and no new look at the host
        counts["samples"] = 1
    counts |= _by_part("shed", sample.shed) | _by_part("dropped", sample.dropped) | _by_part("cache", sample.cache)
    for event in sample.events:
        counts[f"events/{event.kind}"] = counts.get(f"events/{event.kind}", 0) + 1
    steps = [Cell(histograms={"steps": step.seconds, f"steps/{step.step}": step.seconds}) for step in sample.steps]
    gauges = {} if sample.events else _gauges(sample)
    return added((*steps, Cell(counts=counts, histograms=_full(convergence=sample.converged), gauges=gauges)))


def _gauges(sample: Sample) -> dict[str, Gauge]:
    host = sample.host
    levels: dict[str, float | None] = {
        "cpu": host.cpu,
        "memory": host.memory,
        "disk_free_bytes": float(host.disk_free_bytes),
        "agent_memory_bytes": float(host.agent_memory_bytes),
        "temperature_c": host.temperature_c,
        "gpu_utilization": max((gpu.utilization for gpu in host.gpus), default=None),
        "gpu_memory_bytes": float(sum(gpu.memory_bytes for gpu in host.gpus)) if host.gpus else None,
    }
    return {
        name: Gauge(count=1, sum=level, least=level, most=level) for name, level in levels.items() if level is not None
    }


def _gauge(gauges: list[Gauge]) -> Gauge:
    return Gauge(
        count=sum(gauge.count for gauge in gauges),
        sum=sum(gauge.sum for gauge in gauges),
        least=min(gauge.least for gauge in gauges),
        most=max(gauge.most for gauge in gauges),
    )


def _by_part(name: str, counts: Mapping[str, int]) -> dict[str, int]:
    total = sum(counts.values())
    return {name: total, **{f"{name}/{part}": count for part, count in counts.items()}} if total else {}


def _full(**histograms: Histogram) -> dict[str, Histogram]:
    return {name: histogram for name, histogram in histograms.items() if histogram.count}
