"""The engine's metrics (contract, section 8), on the registry the program hands in.

Label sets are bounded: models and versions a process has loaded, places, outcomes and reasons; never a device or a tenant.
"""

import contextlib
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from shared.io.tallies import Counts, Distributions
from shared.protocol.errors import Overloaded, Refused, TidelineError, Transient
from shared.protocol.reported import ModelState
from shared.serving.answer import Where
from shared.serving.catalog import Duration, Statistics
from shared.serving.lanes.worker import Ran
from shared.serving.memory.metrics import ResidencyMetrics

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
TIMES, COUNTS = range(30), range(19, 31)
"""What telemetry's grid covers, in powers of two above its unit: up to 18 minutes, and 0.5 to 2147 items."""
OK = "ok"


def outcome_of(error: BaseException) -> str:
    """How a failed request is counted: by who must act, or the reason it is unavailable."""
    match error:
        case Refused():
            return "refused"
        case Overloaded():
            return "shed"
        case Transient():
            return error.why.value
        case TidelineError():
            return "corrupt"
        case Exception():
            return "error"
        case _:
            return "cancelled"


class EngineMetrics:
    """One per program. A router or a balancer counts what it answers itself through `answered`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        version = ("model", "version")
        self.requests = Counts(
            "tideline_requests",
            "Inference requests by where they were computed and how they ended",
            (*version, "where", "outcome"),
            registry=registry,
        )
        self.seconds = Distributions(
            "tideline_request_seconds",
            "Seconds from a parsed request to its answer",
            (*version, "where"),
            buckets=SECONDS,
            registry=registry,
        )
        self.queue = Distributions(
            "tideline_queue_seconds",
            "Seconds an item waited",
            version,
            buckets=SECONDS,
            octaves=TIMES,
            registry=registry,
        )
        self.compute = Distributions(
            "tideline_compute_seconds",
            "Seconds a batch took",
            version,
            buckets=SECONDS,
            octaves=TIMES,
            registry=registry,
        )
        self.batch_size = Distributions(
            "tideline_batch_size",
            "Items computed together",
            version,
            buckets=SIZES,
            octaves=COUNTS,
            registry=registry,
        )
        self.depth = Gauge("tideline_queue_depth", "Items that wait", version, registry=registry)
        self.limit = Gauge(
            "tideline_concurrency_limit",
            "Slots (rows of full batches) that may be under way",
            version,
            registry=registry,
        )
        self.in_flight = Gauge("tideline_concurrency_in_flight", "Slots that are under way", version, registry=registry)
        self.shed = Counts("tideline_shed", "Requests that were not let in, by reason", ("reason",), registry=registry)
        self.state = Gauge(
            "tideline_model_state", "1 for the state a model version is in", (*version, "state"), registry=registry
        )
        self.residency = ResidencyMetrics(registry)

    def answered(self, model: str, version: str, where: Where, outcome: str, seconds: float) -> None:
        """Count one request."""
        self.requests.labels(model, version, where.value, outcome).inc()
        self.seconds.labels(model, version, where.value).observe(seconds)

    def is_in(self, model: str, version: str, state: ModelState) -> None:
        """A model version changed its state."""
        for each in ModelState:
            self.state.labels(model, version, each.value).set(1.0 if each is state else 0.0)

    def limited(self, model: str, version: str, *, limit: Callable[[], float], in_flight: Callable[[], float]) -> None:
        """Show how much of a model version is under way, and may be."""
        self.limit.labels(model, version).set_function(limit)
        self.in_flight.labels(model, version).set_function(in_flight)

    def forget(self, model: str, version: str) -> None:
        """A model version was unloaded: its gauges go, its counters stay."""
        for each in ModelState:
            self.state.remove(model, version, each.value)
        for gauge in (self.depth, self.limit, self.in_flight):
            with contextlib.suppress(KeyError):
                gauge.remove(model, version)


class Meter:
    """Counters of one loaded version: the program's metrics with their labels bound once, and OIP statistics."""

    def __init__(
        self, metrics: EngineMetrics, model: str, version: str, where: Where, *, depth: Callable[[], float]
    ) -> None:
        self._metrics = metrics
        self._labels = (model, version, where.value)
        self._ok = metrics.requests.labels(*self._labels, OK)
        self._seconds = metrics.seconds.labels(*self._labels)
        self._queue = metrics.queue.labels(model, version)
        self._compute = metrics.compute.labels(model, version)
        self._size = metrics.batch_size.labels(model, version)
        metrics.depth.labels(model, version).set_function(depth)
        self._success = [0, 0.0]
        self._fail = [0, 0.0]
        self._waited = [0, 0.0]
        self._computed = [0, 0.0]
        self._batches: dict[int, list[float]] = {}
        self._last_ms = 0

    def answered(self, seconds: float, now_ms: int) -> None:
        """A request was answered."""
        self._ok.inc()
        self._seconds.observe(seconds)
        _add(self._success, seconds)
        self._last_ms = now_ms

    def failed(self, error: BaseException, seconds: float) -> None:
        """A request ended in `error`."""
        self._metrics.requests.labels(*self._labels, outcome_of(error)).inc()
        _add(self._fail, seconds)

    def shed(self, reason: str) -> None:
        """A request was not let in."""
        self._metrics.shed.labels(reason).inc()

    def ran(self, ran: Ran) -> None:
        """A batch was computed, or failed."""
        self._size.observe(ran.size)
        self._compute.observe(ran.compute)
        _add(self._batches.setdefault(ran.size, [0, 0.0]), ran.compute)
        for wait in ran.waits:
            self._queue.observe(wait)
            _add(self._waited, wait)
            _add(self._computed, ran.compute)

    def statistics(self) -> Statistics:
        """What `/v2/models/{m}/stats` tells."""
        batches = {size: _duration(pair) for size, pair in sorted(self._batches.items())}
        return Statistics(
            inferences=sum(size * duration.count for size, duration in batches.items()),
            executions=sum(duration.count for duration in batches.values()),
            last_ms=self._last_ms,
            success=_duration(self._success),
            fail=_duration(self._fail),
            queue=_duration(self._waited),
            compute=_duration(self._computed),
            batches=batches,
        )


def _add(pair: list[float], seconds: float) -> None:
    pair[0] += 1
    pair[1] += seconds


def _duration(pair: list[float]) -> Duration:
    return Duration(count=int(pair[0]), ns=int(pair[1] * 1e9))
