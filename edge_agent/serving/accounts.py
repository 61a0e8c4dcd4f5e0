"""What is counted and remembered of requests: each decision once, each request once where it ended, its story for `GET /v1/why`."""

from edge_agent.decide.routing import Reason
from edge_agent.serving.trip import NOWHERE, UNKNOWN, Trip
from edge_agent.serving.why import WhyRing
from edge_agent.telemetry.meters import AgentMetrics
from edge_agent.telemetry.metrics import Interval, Key
from shared.io.clock import Clock
from shared.serving.answer import Response, Where
from shared.serving.metrics import OK, EngineMetrics


class Accounts:
    """Where the router and those it asks tell what happened."""

    def __init__(
        self, engine: EngineMetrics, metrics: AgentMetrics, *, interval: Interval, ring: WhyRing, clock: Clock
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._interval = interval
        self._ring = ring
        self._clock = clock

    def decided(self, trip: Trip) -> None:
        """The first decision was made."""
        self._metrics.routed(trip.place, trip.verdict.reason)

    def asked(
        self, trip: Trip, where: Where, reason: Reason, outcome: str, *, began: float, error: str | None = None
    ) -> None:
        """One place answered, or failed to."""
        seconds = self._clock.monotonic() - began
        trip.attempted(where.value, reason, outcome, seconds, error)
        if where is not Where.LOCAL:
            # What the device computes, its engine counts.
            model, version = _labels(trip, known=trip.known or outcome == OK)
            self._engine.answered(model, version, where, outcome, seconds)

    def shed(self, reason: Reason) -> None:
        """A request was turned away by routing."""
        self._engine.shed.labels(reason.value).inc()
        self._interval.shed(reason.value)

    def ended(self, trip: Trip, response: Response | None, outcome: str) -> None:
        """The request is over."""
        seconds = self._clock.monotonic() - trip.began
        where = response.where.value if response is not None else trip.attempts[-1].where if trip.attempts else NOWHERE
        reason = trip.attempts[-1].reason if trip.attempts else trip.verdict.reason.value
        model, version = _labels(trip, known=trip.known or response is not None)
        if where == NOWHERE:
            self._engine.requests.labels(model, version, NOWHERE, outcome).inc()
        self._interval.request(Key(model, version, where, outcome, reason), seconds)
        trip.ended(where=None if where == NOWHERE else where, outcome=outcome)
        self._ring.add(trip.request.id, trip)


def _labels(trip: Trip, *, known: bool) -> tuple[str, str]:
    """Model and version as labels: callers can make up names, so only names that exist are used."""
    if not known:
        return UNKNOWN, UNKNOWN
    return trip.request.model, trip.request.version or UNKNOWN
