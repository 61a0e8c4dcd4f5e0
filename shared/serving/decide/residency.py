"""Which programs are in memory: what goes so that one that is wanted can come. Pure: a snapshot in, a verdict out.

Invariants:

* what is pinned or in use is never evicted;
* with what `Load` evicts gone, everything in memory and what is wanted fit the budget;
* nothing is evicted that need not be, and nothing used more recently while what was used longer ago would have done;
* what can never fit is refused with the figures; what fits once something is free waits, and after a while those in use are
  asked to take nothing new, so that nobody waits for ever behind models that are always busy.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

Key = tuple[str, str, str]
"""Tenant, name, version."""

TENURE = 4.0
"""A version is asked to make room only after it has been in memory this many times as long as it took to load: however many
compete, most of the time goes into answers and not into loading."""


class Keep(StrEnum):
    """How firmly a version is held: `last` goes after all `normal` ones, `pinned` never."""

    NORMAL = "normal"
    LAST = "last"
    PINNED = "pinned"


class Resident(msgspec.Struct, frozen=True, kw_only=True):
    """A version whose program is in memory, or on its way in or out.

    `asked`: a request for it has a permit; `in_use`: it is being computed, loaded or given back. `settled_at` is when it has been
    there for its `TENURE`.
    """

    key: Key
    bytes: int
    last_used: float
    keep: Keep = Keep.NORMAL
    asked: bool = False
    in_use: bool = False
    settled_at: float = 0.0


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A version that is to come into memory; `patience_until`: until when it waits for others to be idle by themselves."""

    key: Key
    bytes: int
    patience_until: float


class Blocked(StrEnum):
    """Why what is wanted cannot come."""

    TOO_LARGE = "too-large"
    PINNED = "pinned"
    IN_USE = "in-use"


class Load(msgspec.Struct, frozen=True):
    """It may come once `evict`, in this order, is gone."""

    evict: tuple[Key, ...] = ()


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Something in use has to become idle first; `drain` should take nothing new. `again_at`: look again then, or on a change."""

    reason: Blocked
    drain: tuple[Key, ...] = ()
    again_at: float | None = None


class Refuse(msgspec.Struct, frozen=True, kw_only=True):
    """It cannot come as things are pinned: it needs `need` bytes, and `most` can be had."""

    reason: Blocked
    need: int
    most: int


def place(residents: Sequence[Resident], wanted: Wanted, budget: int | None, *, now: float) -> Load | Wait | Refuse:
    """May `wanted` come into memory beside `residents`? `budget` None is no bound; times are on one monotonic clock."""
    if budget is None:
        return Load()
    if wanted.bytes > budget:
        return Refuse(reason=Blocked.TOO_LARGE, need=wanted.bytes, most=budget)
    fixed = sum(each.bytes for each in residents if each.keep is Keep.PINNED)
    if fixed + wanted.bytes > budget:
        return Refuse(reason=Blocked.PINNED, need=wanted.bytes, most=max(0, budget - fixed))
    excess = sum(each.bytes for each in residents) + wanted.bytes - budget
    chosen, freed = _oldest(residents, excess)
    if freed >= excess:
        return Load(tuple(each.key for each in chosen))
    if now < wanted.patience_until:
        return Wait(reason=Blocked.IN_USE, again_at=wanted.patience_until)
    return _drained(residents, excess, now=now)


def over(residents: Sequence[Resident], budget: int | None) -> tuple[Key, ...]:
    """What goes because all together are more than `budget`, as far as anything may go: bounds and estimates change."""
    if budget is None:
        return ()
    chosen, _ = _oldest(residents, sum(each.bytes for each in residents) - budget)
    return tuple(each.key for each in chosen)


def _oldest(residents: Iterable[Resident], excess: int) -> tuple[list[Resident], int]:
    """The idle ones to evict for `excess` bytes, the longest unused first, and the bytes that frees; too few where there are no more."""
    chosen: list[Resident] = []
    freed = 0
    idle = (each for each in residents if not (each.asked or each.in_use or each.keep is Keep.PINNED))
    for each in sorted(idle, key=_age):
        if freed >= excess:
            break
        chosen.append(each)
        freed += each.bytes
    # A small old one was taken before a large younger one that is enough by itself.
    for each in reversed(chosen.copy()):
        if freed - each.bytes >= excess:
            chosen.remove(each)
            freed -= each.bytes
    return chosen, freed


def _drained(residents: Sequence[Resident], excess: int, *, now: float) -> Wait:
    """Ask those that were used longest ago; they go as soon as nobody computes on them any more."""
    may = [each for each in residents if each.keep is not Keep.PINNED]
    settled = sorted((each for each in may if each.settled_at <= now), key=_age)
    drain: list[Key] = []
    freed = 0
    for each in settled:
        if freed >= excess:
            break
        drain.append(each.key)
        freed += each.bytes
    later = [each.settled_at for each in may if each.settled_at > now]
    again_at = min(later, default=None) if freed < excess else None
    return Wait(reason=Blocked.IN_USE, drain=tuple(drain) if freed >= excess else (), again_at=again_at)


def _age(each: Resident) -> tuple[bool, float, Key]:
    return each.keep is Keep.LAST, each.last_used, each.key
