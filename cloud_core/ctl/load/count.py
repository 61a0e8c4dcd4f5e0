"""What a step of load counts: how its requests ended, and the latencies of the answers alone."""

import math
from array import array
from collections import Counter
from collections.abc import Sequence

from cloud_core.decide.capacity import Step

BROKEN, LATE = 0, -1
"""How a request ended that has no status: the connection broke, or the patience did."""
_WORDS = {BROKEN: "connection", LATE: "timeout"}


class Tally:
    """One step's counts. A refusal or an error is never a latency."""

    def __init__(self, bound_s: float | None = None) -> None:
        """`bound_s`: the latency within which an answer counts as `inside`; None counts every answer."""
        self._bound = bound_s
        self._latencies = array("d")
        self._inside = 0
        self._refused = 0
        self._errors: Counter[str] = Counter()

    def ended(self, latency: float, status: int) -> None:
        """A request ended after `latency` seconds with `status`, or one of the words above."""
        if status == 200:
            self._latencies.append(latency)
            self._inside += self._bound is None or latency <= self._bound
        elif status == 429:
            self._refused += 1
        else:
            self._errors[_WORDS.get(status, str(status))] += 1

    @property
    def ends(self) -> int:
        """How many requests ended."""
        return len(self._latencies) + self._refused + self._errors.total()

    def step(
        self, *, clients: int, seconds: float, cpu: float, client_cpu: float, asked: int, rate: float | None = None
    ) -> Step:
        """What was counted, as a value."""
        ordered = sorted(self._latencies)
        return Step(
            clients=clients,
            rate=rate,
            seconds=seconds,
            asked=asked,
            answered=len(ordered),
            refused=self._refused,
            errors=dict(self._errors),
            inside=self._inside,
            mean_ms=1000 * sum(ordered) / len(ordered) if ordered else None,
            p50_ms=_quantile(ordered, 0.50),
            p95_ms=_quantile(ordered, 0.95),
            p99_ms=_quantile(ordered, 0.99),
            cpu=cpu,
            client_cpu=client_cpu,
        )


def _quantile(ordered: Sequence[float], q: float) -> float | None:
    """The smallest latency that at least a share `q` of them do not exceed, in milliseconds."""
    if not ordered:
        return None
    return 1000 * ordered[math.ceil(q * len(ordered)) - 1]
