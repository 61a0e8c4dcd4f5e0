"""How long it takes from a generation's making to its device's report of having applied it."""

from collections.abc import Sequence

from cloud_core.loops.metrics import LoopMetrics
from cloud_core.loops.reconcile import Made
from shared.io.clock import Clock
from shared.protocol.reported import Reported

MOST = 100_000


class Convergence:
    """Owner of the generations this process made and whose devices have not said that they run them."""

    def __init__(self, metrics: LoopMetrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._waiting: dict[tuple[str, str], Made] = {}

    def made(self, generations: Sequence[Made]) -> None:
        """These are durable now; an older one of the same device is no longer waited for."""
        for one in generations:
            if len(self._waiting) < MOST:
                self._waiting[one.tenant, one.device] = one

    def reported(self, tenant: str, device: str, report: Reported) -> None:
        """A device says what it applied."""
        waited = self._waiting.get((tenant, device))
        if waited is not None and report.applied is not None and report.applied >= waited.order:
            del self._waiting[tenant, device]
            self._metrics.convergence.observe(max(0.0, self._clock.wall() - waited.at))
