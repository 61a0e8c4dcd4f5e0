"""What a server can carry, from what steps of load on it found: the knee, and the largest rate that holds a P99.

**The knee** of a ladder of closed-loop steps is the fewest clients after which more of them were not worth their wait: the last step
whose throughput beats the best of all smaller steps by at least `GAIN` per doubling of clients. A gain of 2**0.5 - 1 = 41 % per
doubling would be the point of greatest power, throughput over response time (Kleinrock 1979, "Power and deterministic rules of
thumb for probabilistic problems in computer communications"); 10 % goes on a little further, to where the curve is flat. Kneedle
(Satopaa et al. 2011) was not taken: it scales the curve to the ladder's ends, so one more step at 1000 clients moves its knee.

**A rate holds a P99** when at least 99 % of all requests offered at it were answered within the bound. What was refused, failed or
never answered counts as late: a server does not get faster by refusing.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

import msgspec

GAIN = 0.10
"""Gain in throughput per doubling of clients that makes more clients worth it."""
FINE = 0.04
"""The search for a rate ends when what is not known yet is less than this share of the peak."""
WITHIN = 0.99


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of load found. Latencies are of answers alone, in milliseconds, and None where there was none.

    In a closed loop `rate` is None and `asked` counts what ended in the measured span; in an open loop requests per second
    offered, and every request scheduled in the span, whenever it ended.
    """

    clients: int
    """Connections: all of a closed loop, the most that were open in an open one."""
    seconds: float
    asked: int
    answered: int
    rate: float | None = None
    refused: int = 0
    """Answers with status 429."""
    errors: dict[str, int] = {}
    """By what went wrong: a status, `timeout` or `connection`."""
    inside: int = 0
    """Answers within the bound; all of them where there is no bound."""
    mean_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    cpu: float = 0.0
    """Cores busy: of the server's processes, or of this machine."""
    client_cpu: float = 0.0
    """Cores the load itself took."""

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def goodput(self) -> float:
        """Answers within the bound, per second."""
        return self.inside / self.seconds if self.seconds else 0.0


class KneeWhy(StrEnum):
    """Why the knee is where it is."""

    FLAT = "more-clients-gained-too-little"
    LADDER_ENDS = "still-growing-at-the-last-step"
    NOTHING = "nothing-was-answered"


class Knee(msgspec.Struct, frozen=True, kw_only=True):
    """`clients` None where nothing was answered at all."""

    clients: int | None
    throughput: float
    why: KneeWhy


def knee(steps: Sequence[Step]) -> Knee:
    """The knee of a ladder, whose steps may come in any order."""
    ladder = sorted(steps, key=lambda step: step.clients)
    best = next((step for step in ladder if step.answered), None)
    if best is None:
        return Knee(clients=None, throughput=0.0, why=KneeWhy.NOTHING)
    for step in ladder:
        doublings = math.log2(step.clients / best.clients)
        if doublings > 0 and step.throughput >= best.throughput * (1 + GAIN) ** doublings:
            best = step
    why = KneeWhy.LADDER_ENDS if best.clients == ladder[-1].clients else KneeWhy.FLAT
    return Knee(clients=best.clients, throughput=best.throughput, why=why)


class HeldWhy(StrEnum):
    """Why this is the largest rate that holds."""

    NEXT_MISSED = "the-next-rate-tried-missed-it"
    ALL_HELD = "every-rate-tried-held-it"
    NONE_HELD = "no-rate-tried-held-it"


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The largest rate tried, in requests per second, that holds the bound, and the smallest above it that did not."""

    rate: float | None
    missed: float | None
    why: HeldWhy


def holds(step: Step) -> bool:
    """Whether a step's rate holds the bound that `inside` was counted by."""
    return step.asked > 0 and step.inside >= WITHIN * step.asked


def largest(steps: Sequence[Step]) -> Held:
    """The verdict over open-loop steps. A rate that holds above one that did not was lucky, and does not count."""
    rate: float | None = None
    for step in sorted(steps, key=lambda step: step.rate or 0.0):
        if not holds(step):
            why = HeldWhy.NONE_HELD if rate is None else HeldWhy.NEXT_MISSED
            return Held(rate=rate, missed=step.rate, why=why)
        rate = step.rate
    return Held(rate=rate, missed=None, why=HeldWhy.NONE_HELD if rate is None else HeldWhy.ALL_HELD)


def next_rate(tried: Sequence[Step], peak: float) -> float | None:
    """The rate to try next in the search below `peak` (the best throughput of a ladder); None when it is known well enough.

    Halves what is not known: above the largest rate that held, below the smallest that did not.
    """
    found = largest(tried)
    low, high = found.rate or 0.0, peak if found.missed is None else min(found.missed, peak)
    if peak <= 0 or high - low <= FINE * peak:
        return None
    return (low + high) / 2
