"""Retention: which samples go when the spool is full.  Measurements first, events and results last, the oldest first; pure.

What was sent and not acknowledged is in doubt: the cloud may hold it. It is kept, so that what is counted as dropped was received
by nobody, and received plus dropped is what was produced. The sender bounds how much is in doubt.
"""

from collections.abc import Iterable
from enum import IntEnum, StrEnum

import msgspec

from shared.protocol.telemetry import Sample


class Rank(IntEnum):
    """What a sample is worth; the lower goes first."""

    MEASUREMENT = 0
    EVENT = 1


class Reason(StrEnum):
    """Why samples are lost: the keys of `Sample.dropped`."""

    FULL = "spool-full"
    FULL_EVENTS = "spool-full-events"
    DAMAGED = "spool-damaged"
    STORAGE = "storage"
    CRASH = "crash"


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One sample on disk; `size` in bytes."""

    seq: int
    rank: Rank
    size: int


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """A sample that goes, and as what it is counted."""

    seq: int
    reason: Reason


def rank_of(sample: Sample) -> Rank:
    """What a sample is worth."""
    return Rank.EVENT if sample.events else Rank.MEASUREMENT


def worth(held: Held) -> tuple[Rank, int]:
    """The order in which samples go: the least first."""
    return held.rank, held.seq


def to_drop(held: Iterable[Held], *, total: int, most: int, sent: int, newest: int) -> tuple[Loss, ...]:
    """What goes so that `most` bytes hold the rest, if that can be had.

    Args:
        held: every sample, by rising `worth`; not read further than need be.
        total: bytes of all of them.
        most: bytes they may have.
        sent: the highest seq that was sent: up to it, everything is in doubt, and stays.
        newest: the seq of the sample that was just made, which stays whatever it weighs.

    """
    lost: list[Loss] = []
    if total <= most:
        return ()
    for each in held:
        if total <= most:
            break
        if each.seq <= sent or each.seq == newest:
            continue
        total -= each.size
        lost.append(Loss(seq=each.seq, reason=Reason.FULL if each.rank is Rank.MEASUREMENT else Reason.FULL_EVENTS))
    return tuple(lost)
