"""Admission: may this request enter now? Shed early, never late.

A request is shed by its deadline only when its own expected completion misses it, and by the hard bounds whatever it
says. Before anything was measured the expected wait is zero, so a fresh engine learns from its first requests.
"""

from enum import StrEnum

import msgspec


class ShedReason(StrEnum):
    """Why a request may not enter."""

    DEADLINE = "deadline"
    ENTRIES = "queue-full"
    TOKENS = "queue-tokens"
    BYTES = "queue-bytes"


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


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a request would add, and the seconds its own computation is expected to take."""

    entries: int = 1
    tokens: int = 1
    bytes: int = 0
    seconds: float = 0.0


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """It may enter: what `BatchQueue.reserve` wants to see."""

    ask: Ask
    predicted: float
    """Seconds until it would be done by the cost model alone; what it really took calibrates the next verdicts."""


class Shed(msgspec.Struct, frozen=True, kw_only=True):
    """It may not; it may come back after `retry_after` seconds."""

    reason: ShedReason
    retry_after: float


def admit(
    load: Load, limits: Limits, ask: Ask, *, deadline: float | None, now: float, stretch: float = 1.0
) -> Admitted | Shed:
    """May `ask` enter on top of `load`? Deadlines and `now` are on one monotonic clock, in seconds.

    `stretch` is how much longer than predicted things take at present (`decide/calibration`).

    A request alone larger than a bound is let in when nothing else waits: whether a model can take it at all is the
    task's to say (422), and asking it to come back later would be a lie.
    """
    predicted = load.expected_wait + ask.seconds
    back = max(0.05, load.expected_wait * stretch)
    if deadline is not None and now + predicted * stretch > deadline:
        return Shed(reason=ShedReason.DEADLINE, retry_after=back)
    if load.entries > 0:
        if load.entries + ask.entries > limits.entries:
            return Shed(reason=ShedReason.ENTRIES, retry_after=back)
        if load.tokens + ask.tokens > limits.tokens:
            return Shed(reason=ShedReason.TOKENS, retry_after=back)
        if load.bytes + ask.bytes > limits.bytes:
            return Shed(reason=ShedReason.BYTES, retry_after=back)
    return Admitted(ask=ask, predicted=predicted)
