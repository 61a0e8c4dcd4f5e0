"""What all devices together did, for `/metrics`: merged as it is rolled up, by labels that are bounded; device ids are never one.

These count from this process's start what was rolled up since, as every Prometheus counter does; history is in the registry.
"""

from collections.abc import Collection, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from cloud_core.decide.rollup import Cell, Key, added
from cloud_core.loops.samples import Written
from shared.protocol.telemetry import Histogram, bounds_of

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MOST = 200
"""Versions that have labels of their own; those beyond, and what the registry does not know, are counted under `OTHER`."""
MOST_WORDS = 50
"""Words of each other kind: outcomes, reasons. Devices choose them."""
OTHER = "other"
PLACES = frozenset({"", "local", "cloud", "cache"})


class FleetMetrics:
    """The fleet's part of the loops' `/metrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "tideline_fleet_requests",
            "Requests of all devices.",
            ["model", "version", "where", "outcome"],
            registry=registry,
        )
        self._shed = Counter("tideline_fleet_shed", "Requests turned away by devices.", ["reason"], registry=registry)
        self._dropped = Counter(
            "tideline_telemetry_dropped",
            "Telemetry samples that devices lost, by reason.",
            ["reason"],
            registry=registry,
        )
        self._samples = Counter(
            "tideline_telemetry_samples",
            "Telemetry samples received, by how their times were placed on the cloud's clock.",
            ["placed"],
            registry=registry,
        )
        self._skipped = Counter(
            "tideline_telemetry_skipped",
            "Samples that devices no longer had when they went on; they count theirs as dropped.",
            registry=registry,
        )
        self._behind = Gauge(
            "tideline_telemetry_rollup_behind", "Samples not yet in history.", ["stage"], registry=registry
        )
        self._latencies = _Latencies()
        registry.register(self._latencies)
        self._names: dict[str, set[tuple[str, ...]]] = {}

    def wrote(self, written: Written) -> None:
        """Telemetry was written."""
        for why, samples in written.placed.items():
            self._samples.labels(why.value).inc(samples)
        self._skipped.inc(sum(written.skipped.values()))

    def rolled_up(self, cells: Iterable[tuple[Key, Cell]], *, published: Collection[tuple[str, str]]) -> None:
        """These are in history now; `published` are the (model, version) that may be named."""
        for key, cell in cells:
            model, version = OTHER, OTHER
            if (key.model, key.version) in published:
                model, version = self._bounded("version", key.model, key.version)
            place = key.place if key.place in PLACES else OTHER
            for name, count in cell.counts.items():
                metric, _, part = name.partition("/")
                if not part:
                    continue
                (part,) = self._bounded(metric, part)
                if metric == "requests":
                    self._requests.labels(model, version, place, part).inc(count)
                elif metric == "shed":
                    self._shed.labels(part).inc(count)
                elif metric == "dropped":
                    self._dropped.labels(part).inc(count)
            if "latency" in cell.histograms:
                self._latencies.add((model, version, place), cell.histograms["latency"])

    def behind(self, stage: str, samples: int) -> None:
        """So many samples wait for `stage`."""
        self._behind.labels(stage).set(samples)

    def _bounded(self, kind: str, *names: str) -> tuple[str, ...]:
        known = self._names.setdefault(kind, set())
        if names not in known:
            if len(known) >= (MOST if kind == "version" else MOST_WORDS):
                return (OTHER,) * len(names)
            known.add(names)
        return names


class _Latencies(Collector):
    """One Prometheus histogram of merged ones."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, ...], Histogram] = {}

    def add(self, labels: tuple[str, ...], histogram: Histogram) -> None:
        """Merge one more."""
        held = self._held.get(labels, Histogram())
        self._held[labels] = added(Cell(histograms={"": each}) for each in (held, histogram)).histograms[""]

    def collect(self) -> Iterable[Metric]:
        """What Prometheus reads. A bucket of ours counts where its middle lies, within the histogram's stated error."""
        family = HistogramMetricFamily(
            "tideline_fleet_request_seconds",
            "Latency of requests of all devices.",
            labels=["model", "version", "where"],
        )
        for labels, histogram in self._held.items():
            below = dict.fromkeys(SECONDS, 0)
            for index, count in histogram.buckets.items():
                middle = sum(bounds_of(index, histogram.sub)) / 2
                for bound in SECONDS:
                    if middle <= bound:
                        below[bound] += count
            buckets = [(str(bound), float(count)) for bound, count in below.items()]
            family.add_metric(list(labels), [*buckets, ("+Inf", float(histogram.count))], histogram.sum)
        yield family
