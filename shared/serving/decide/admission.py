"""Admission: may this request enter now? Shed early, never late.

A request is shed by its deadline only when its own expected completion misses it, by the limit of its model version when as much of
it is under way as is worth having (`decide/concurrency`), and by the hard bounds whatever it says. Before anything was measured the
expected wait is zero and only the bounds hold, so a fresh engine learns from its first requests.

The hard bounds are over all models, and none may fill them alone: where several are loaded, one may hold at most `HEADROOM` times
what is still free, so that something is always left for the next (dynamic thresholds; Choudhury and Hahne 1998).
"""

import math
from enum import StrEnum

import msgspec

from shared.serving.decide.calibration import Stretch

LEAST_RETRY_S = 0.05
SPREAD_S = 1.0
"""Who is shed at the same moment is asked back within at least this time, not at one moment."""
HEADROOM = 2.0
"""One busy model leaves a third of each bound free, two a fifth, three a seventh."""


class ShedReason(StrEnum):
    """Why a request may not enter."""

    DEADLINE = "deadline"
    LIMIT = "limit"
    ENTRIES = "queue-full"
    TOKENS = "queue-tokens"
    BYTES = "queue-bytes"
    LOOP = "event-loop"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What waits and runs already. `expected_wait`: seconds until a batch formed now would start."""

    entries: int = 0
    tokens: int = 0
    bytes: int = 0
    expected_wait: float = 0.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Hard bounds over everything that waits or runs."""

    entries: int = 4096
    tokens: int = 65536
    bytes: int = 256 * 1024 * 1024


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """What of the load is the model version's own: slots under way, and how many may be (`decide/concurrency`).

    `shared`: other versions are loaded too.
    """

    load: Load = Load()
    in_flight: float = 0.0
    limit: float = math.inf
    shared: bool = False


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a request would add, and the seconds that its own computation and a full batch of its like are expected to take.

    `company`: seconds of the batch it gets into where it has to wait for its turn, with whoever waits beside it.
    """

    entries: int = 1
    tokens: int = 1
    bytes: int = 0
    slots: float = 1.0
    seconds: float = 0.0
    full: float = 0.0
    company: float = 0.0


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """It may enter: what `BatchQueue.reserve` wants to see."""

    ask: Ask
    predicted: float
    """Seconds until it would be done by the cost model alone; what it really took calibrates the next verdicts."""
    in_flight: float = 0.0
    """Slots under way with it."""


class Shed(msgspec.Struct, frozen=True, kw_only=True):
    """It may not; it may come back after `retry_after` seconds."""

    reason: ShedReason
    retry_after: float


def admit(
    load: Load,
    limits: Limits,
    ask: Ask,
    *,
    deadline: float | None,
    now: float,
    stretch: Stretch = Stretch(),  # noqa: B008 - a frozen value
    own: Own = Own(),  # noqa: B008 - a frozen value
    u: float = 0.0,
) -> Admitted | Shed:
    """May `ask` enter on top of `load`? Deadlines and `now` are on one monotonic clock, in seconds.

    `stretch` is how much longer than predicted things may take at present (`decide/calibration`); `u` a draw from [0, 1) that
    spreads those who are asked to come back.

    A request alone larger than a bound is let in when nothing else waits: whether a model can take it at all is the
    task's to say (422), and asking it to come back later would be a lie.
    """
    wait = load.expected_wait
    predicted = wait + max(ask.seconds, ask.company if wait > 0.0 else 0.0)
    reason = _reason(load, limits, ask, own, late=deadline is not None and now + stretch.of(predicted) > deadline)
    if reason is not None:
        return Shed(reason=reason, retry_after=spread(wait * stretch.factor, u=u))
    return Admitted(ask=ask, predicted=predicted, in_flight=own.in_flight + ask.slots)


def spread(seconds: float, *, u: float) -> float:
    """When to come back where there may be room after `seconds`: never before, and evenly over as long again, or `SPREAD_S`."""
    least = max(LEAST_RETRY_S, seconds)
    return least + u * max(SPREAD_S, least)


def _reason(load: Load, limits: Limits, ask: Ask, own: Own, *, late: bool) -> ShedReason | None:
    if late:
        return ShedReason.DEADLINE
    if own.in_flight >= own.limit:
        # One door for all: a list finds it open or shut as a single text does, or lists would starve beside a stream of those.
        return ShedReason.LIMIT
    if load.entries == 0:
        return None
    if _is_over(ask.entries, own.load.entries, load.entries, limits.entries, shared=own.shared):
        return ShedReason.ENTRIES
    if _is_over(ask.tokens, own.load.tokens, load.tokens, limits.tokens, shared=own.shared):
        return ShedReason.TOKENS
    if _is_over(ask.bytes, own.load.bytes, load.bytes, limits.bytes, shared=own.shared):
        return ShedReason.BYTES
    return None


def _is_over(ask: int, own: int, all_: int, bound: int, *, shared: bool) -> bool:
    return all_ + ask > bound or (shared and own + ask > HEADROOM * (bound - all_))
