"""What is counted and remembered of requests: each decision once, each request once where it ended, its story for `GET /v1/why`."""

from edge_agent.decide import shadow as decide
from edge_agent.decide.routing import Reason
from edge_agent.serving.evidence import Evidence
from edge_agent.serving.likeness import pairs_of
from edge_agent.serving.trip import NOWHERE, UNKNOWN, Trip
from edge_agent.serving.why import WhyRing
from edge_agent.telemetry.meters import AgentMetrics
from edge_agent.telemetry.metrics import DisagreementKey, Interval, Key
from shared.io.clock import Clock
from shared.serving.answer import Response, Where
from shared.serving.metrics import OK, EngineMetrics, outcome_of

SAME = "same"


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
        self.evidence = Evidence()
        """What the versions here did for their callers."""

    def decided(self, trip: Trip) -> None:
        """The first decision was made."""
        self._metrics.routed(trip.place, trip.verdict.reason)

    def asked(
        self,
        trip: Trip,
        where: Where,
        reason: Reason,
        outcome: str,
        *,
        began: float,
        error: str | None = None,
        answer: Response | None = None,
    ) -> None:
        """One place answered, or failed to."""
        seconds = self._clock.monotonic() - began
        trip.attempted(where.value, reason, outcome, seconds, began=began, error=error, answer=answer)
        if where is Where.LOCAL:
            self.evidence.asked(trip.request.model, trip.request.version or UNKNOWN, outcome, answer)
        else:
            # What the device computes, its engine counts.
            model, version = _labels(trip, known=trip.known or outcome == OK)
            self._engine.answered(model, version, where, outcome, seconds)

    def gave_up(self, trip: Trip, where: Where, reason: Reason, error: BaseException, *, began: float) -> None:
        """One place was asked, and is no longer waited for: the caller went away, or the other place was faster."""
        trip.attempted(where.value, reason, outcome_of(error), self._clock.monotonic() - began, began=began)

    def hedged(self, first: Where, outcome: str) -> None:
        """Two places were asked at the same time, `first` first."""
        self._metrics.hedged(first.value, outcome)

    def compared(self, trip: Trip, local: Response, cloud: Response) -> None:
        """A cascade asked both: whether they say the same is evidence of what the smaller variant is worth."""
        differs = decide.difference(pairs_of(local.results, cloud.results))
        result = decide.Result.AGREE if differs is None else decide.Result.DIFFER
        what = SAME if differs is None else differs.value
        trip.compared = (result.value, what)
        self._metrics.compared(local.model, local.version, result, what)
        self._interval.compared(DisagreementKey(local.model, local.version, cloud.version, result.value, what))

    def shed(self, reason: Reason) -> None:
        """A request was turned away by routing."""
        self._engine.shed.labels(reason.value).inc()
        self._interval.shed(reason.value)

    def ended(self, trip: Trip, response: Response | None, outcome: str) -> None:
        """The request is over."""
        seconds = self._clock.monotonic() - trip.began
        where = response.where.value if response is not None else trip.attempts[-1].where if trip.attempts else NOWHERE
        # Of two attempts at the same time, the answer's reason is the winner's; the last to end is the one given up.
        last = trip.attempts[-1].reason if trip.attempts else trip.verdict.reason.value
        reason = last if response is None else response.why
        model, version = _labels(trip, known=trip.known or response is not None)
        if where == NOWHERE:
            self._engine.requests.labels(model, version, NOWHERE, outcome).inc()
        self._interval.request(Key(model, version, where, outcome, reason), seconds, response)
        by = None if response is None else (response.model, response.version, response.variant)
        trip.ended(where=None if where == NOWHERE else where, outcome=outcome, by=by)
        self._ring.add(trip.request.id, trip)


def _labels(trip: Trip, *, known: bool) -> tuple[str, str]:
    """Model and version as labels: callers can make up names, so only names that exist are used."""
    if not known:
        return UNKNOWN, UNKNOWN
    return trip.request.model, trip.request.version or UNKNOWN
