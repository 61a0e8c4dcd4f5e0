"""One metric out of a cell of history, as a number a person or a gate reads. Pure."""

from collections.abc import Sequence

import msgspec

from cloud_core.decide.comparison import mean_of
from cloud_core.decide.rollup import Cell
from shared.protocol.telemetry import quantile

COUNTS = ("requests", "errors", "reasons", "shed", "dropped", "cache", "shadows", "compared", "samples", "events")
HISTOGRAMS = ("latency", "queue", "compute", "batch_size", "confidence", "scores", "steps", "convergence")
GAUGES = (
    "cpu", "memory", "disk_free_bytes", "agent_memory_bytes", "temperature_c", "gpu_utilization", "gpu_memory_bytes",
)  # fmt: skip
METRICS = (*COUNTS, *HISTOGRAMS, *GAUGES)
"""A metric with parts takes one behind a slash: `requests/ok`, `dropped/spool-full`, `scores/positive`."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A metric over some windows.

    `count`: of a count, its value; of a histogram or gauge, how many values there were. `sum`, `mean`: of those values.
    `quantiles`: of a histogram, each merged from all windows and devices, never averaged. `least`, `most`: of a gauge.
    """

    count: int
    sum: float | None = None
    mean: float | None = None
    quantiles: dict[str, float | None] = {}
    least: float | None = None
    most: float | None = None

    def ranked(self, statistic: str) -> float:
        """The number by which readings are put in order; those without it come last."""
        found = self.quantiles.get(statistic[1:]) if statistic.startswith("q") else getattr(self, statistic)
        return float("-inf") if found is None else float(found)


def is_metric(name: str) -> bool:
    """Whether history has a metric of that name, parts included."""
    metric, slash, part = name.partition("/")
    return metric in METRICS and (not slash or bool(part)) and name.isprintable() and len(name) <= 128


def reading(cell: Cell, metric: str, qs: Sequence[float]) -> Reading | None:
    """What the cell says of a metric; None where it says nothing."""
    if metric in cell.counts:
        return Reading(count=cell.counts[metric])
    if metric in cell.gauges:
        gauge = cell.gauges[metric]
        return Reading(
            count=gauge.count, sum=gauge.sum, mean=gauge.sum / gauge.count, least=gauge.least, most=gauge.most
        )
    if metric in cell.histograms:
        histogram = cell.histograms[metric]
        quantiles = {str(q): quantile(histogram, q) for q in qs}
        return Reading(count=histogram.count, sum=histogram.sum, mean=mean_of(histogram), quantiles=quantiles)
    return None
