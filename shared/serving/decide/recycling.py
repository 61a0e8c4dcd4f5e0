"""Which version's threads and session are made anew because the process grew. Pure: a snapshot in, a verdict with its reason out.

Memory belongs to a process, not to a session, so nobody can say who grew. What is known is what the programs should take, and how
much each has run since it was loaded: whatever leaks, leaks by running, so the one that ran most is suspected first. Made anew
in vain, again and again, means that it is something else: each time the pause doubles.
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from shared.serving.decide.residency import Key

PAUSE_S = 60.0
"""From one recycling to the next: memory is given back with a delay, and is measured again before anybody is suspected anew."""
_MOST_DOUBLINGS = 10
_WORTH = 0.9
"""Growth after a recycling as a share of that before, above which it was in vain."""


class Leave(StrEnum):
    """Why nothing is made anew."""

    WITHIN_BOUND = "within-bound"
    TOO_SOON = "too-soon"
    NOTHING_RAN = "nothing-ran"


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """A version in memory, the batches it has run since it was loaded, and when that was (monotonic seconds)."""

    key: Key
    runs: int
    loaded_at: float


class History(msgspec.Struct, frozen=True, kw_only=True):
    """The last recycling: when, how far the process had grown, and how many in a row were in vain."""

    at: float | None = None
    growth: int = 0
    vain: int = 0


class Recycle(msgspec.Struct, frozen=True, kw_only=True):
    """Make `key` anew: the process has grown by `growth` bytes where `bound` are allowed."""

    key: Key
    growth: int
    bound: int
    history: History


def recycle(suspects: Sequence[Suspect], history: History, *, growth: int, bound: int, now: float) -> Recycle | Leave:
    """`growth`: resident bytes beyond the process's own and what its programs should take."""
    if growth <= bound:
        return Leave.WITHIN_BOUND
    vain = history.vain + 1 if history.at is not None and growth >= _WORTH * history.growth else 0
    if history.at is not None and now < history.at + PAUSE_S * 2 ** min(vain, _MOST_DOUBLINGS):
        return Leave.TOO_SOON
    ran = [each for each in suspects if each.runs > 0]
    if not ran:
        return Leave.NOTHING_RAN
    worst = min(ran, key=lambda each: (-each.runs, each.loaded_at, each.key))
    return Recycle(key=worst.key, growth=growth, bound=bound, history=History(at=now, growth=growth, vain=vain))
