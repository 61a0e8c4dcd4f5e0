"""Convergence as telemetry sees it: how long generations take to come into force, and events where it ends well or badly."""

from edge_agent.telemetry.meters import AgentMetrics
from edge_agent.telemetry.metrics import Interval
from shared.io.clock import Clock
from shared.protocol.reported import Convergence, Reported

TOLD = (Convergence.FAILED, Convergence.REFUSED)
CONVERGED = "converged"


class ConvergenceWatch:
    """Owner of what was last told; event loop only."""

    def __init__(self, metrics: AgentMetrics, interval: Interval, clock: Clock) -> None:
        """Counts into both."""
        self._metrics = metrics
        self._interval = interval
        self._clock = clock
        self._told: tuple[object, ...] = ()

    def changed(self, report: Reported) -> None:
        """The report may have changed."""
        seconds = self._metrics.converging(report, self._clock.monotonic())
        subject = "" if report.target is None else f"{report.target.epoch}.{report.target.number}"
        if seconds is not None:
            self._interval.converged(seconds)
            self._interval.event(self._clock.wall(), CONVERGED, subject, f"{seconds:.3f} s")
        now = (report.convergence, report.target, report.error)
        if report.convergence in TOLD and now != self._told:
            self._interval.event(self._clock.wall(), report.convergence.value, subject, report.error or "")
        self._told = now
