"""The agent's own metrics (contract, section 8) beside the engine's, on the registry the program hands in."""

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from edge_agent.decide.breaker import State
from edge_agent.decide.routing import Reason
from edge_agent.decide.shadow import Result
from shared.io.mqtt import Outcome
from shared.io.process_metrics import ProcessMetrics
from shared.io.tallies import Counts
from shared.protocol.desired import Order
from shared.protocol.reported import Reported

CONVERGENCE_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class AgentMetrics:
    """One per agent."""

    def __init__(self, registry: CollectorRegistry, *, breaker: Callable[[], State]) -> None:
        """`breaker` tells its state whenever metrics are read."""
        self._routes = Counts(
            "tideline_route", "Requests by the place routing chose, and why", ("where", "reason"), registry=registry
        )
        self._dropped = Counter(
            "tideline_telemetry_dropped", "Telemetry samples lost, by reason", ("reason",), registry=registry
        )
        self._messages = Counter(
            "tideline_mqtt_messages",
            "Messages received, by topic and what became of them",
            ("topic", "outcome"),
            registry=registry,
        )
        self._shadows = Counter(
            "tideline_shadow",
            "Copies for a shadow version, by whether it said the same, and why not",
            ("model", "version", "result", "reason"),
            registry=registry,
        )
        self._cascades = Counter(
            "tideline_cascade",
            "Requests of a cascade that both places answered, by whether they said the same, and why not",
            ("model", "version", "result", "reason"),
            registry=registry,
        )
        self._hedges = Counter(
            "tideline_hedges",
            "Requests for which both places were asked at the same time, by the first, and whose answer was given",
            ("first", "outcome"),
            registry=registry,
        )
        self._watched: tuple[Order, float | None] | None = None
        self._convergence = Histogram(
            "tideline_convergence_seconds",
            "Seconds from a generation's arrival until it answers",
            buckets=CONVERGENCE_SECONDS,
            registry=registry,
        )
        states = Gauge("tideline_breaker_state", "1 for the state the breaker is in", ("state",), registry=registry)
        for state in State:
            states.labels(state.value).set_function(partial(_is_in, breaker, state))
        registry.register(ProcessMetrics())

    def converging(self, report: Reported, now: float) -> float | None:
        """The report changed: a new target starts the watch, its coming into force ends it; then the seconds it took."""
        if report.target is None:
            return None
        if self._watched is None or self._watched[0] != report.target:
            self._watched = (report.target, now if report.applied != report.target else None)
        target, began = self._watched
        if began is not None and report.applied == target:
            self._convergence.observe(now - began)
            self._watched = (target, None)
            return now - began
        return None

    def routed(self, where: str, reason: Reason) -> None:
        """One decision."""
        self._routes.labels(where, reason.value).inc()

    def compared(self, model: str, version: str, result: Result, reason: str) -> None:
        """One request that the device and the cloud both answered."""
        self._cascades.labels(model, version, result.value, reason).inc()

    def hedged(self, first: str, outcome: str) -> None:
        """One request that both places were asked for ended."""
        self._hedges.labels(first, outcome).inc()

    def shadowed(self, model: str, version: str, result: Result, reason: str) -> None:
        """One copy ended."""
        self._shadows.labels(model, version, result.value, reason).inc()

    def dropped(self, reason: str, count: int) -> None:
        """Telemetry samples were lost."""
        self._dropped.labels(reason).inc(count)

    def message(self, topic: str, outcome: Outcome) -> None:
        """One message came."""
        self._messages.labels(topic, outcome.value).inc()


def _is_in(breaker: Callable[[], State], state: State) -> float:
    return float(breaker() is state)
