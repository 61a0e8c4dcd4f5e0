"""Trust as telemetry sees it: the state as a metric, what was refused as a count, and an event where an alarm begins or ends."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from edge_agent.telemetry.metrics import Interval
from shared.io.clock import Clock
from shared.protocol.trust import TrustReport, TrustState

EVENT = "trust"


class TrustWatch:
    """Owner of what was last told; event loop only."""

    def __init__(self, registry: CollectorRegistry, interval: Interval, clock: Clock) -> None:
        self._state = Gauge(
            "tideline_trust_state", "1 for how the device stands with its TUF metadata", ["state"], registry=registry
        )
        self._refused = Counter(
            "tideline_trust_refused", "Attempts that ended with metadata that was not accepted", registry=registry
        )
        self._interval = interval
        self._clock = clock
        self._told: TrustState | None = None

    def changed(self, report: TrustReport) -> bool:
        """Another attempt ended; whether that is news for people."""
        for state in TrustState:
            self._state.labels(state.value).set(state is report.state)
        if report.state in (TrustState.REFUSED, TrustState.STALE) and report.error is not None:
            self._refused.inc()
        before, self._told = self._told, report.state
        if before is not report.state and (report.alarm or before not in (None, TrustState.FRESH, TrustState.OFFLINE)):
            self._interval.event(self._clock.wall(), EVENT, report.state.value, report.error or "")
        return before is not report.state
