"""Whether a device is there: from its birth, its death and when it was last heard."""

from enum import StrEnum

import msgspec

QUIET_SHARE = 1 / 3
"""A device silent for more than this share of `lost_after` is stale."""


class Presence(StrEnum):
    """The four states a device can be in."""

    ONLINE = "online"
    STALE = "stale"
    LOST = "lost"
    NEVER = "never"


class Why(StrEnum):
    """What the state follows from."""

    HEARD = "heard"
    QUIET = "quiet"
    SILENT = "silent"
    DIED = "died"
    UNBORN = "unborn"


class Liveness(msgspec.Struct, frozen=True):
    """The verdict."""

    state: Presence
    why: Why


def classify(
    *,
    born_epoch: int | None,
    born_at: float | None,
    died_at: float | None,
    last_seen: float | None,
    now: float,
    lost_after: float,
) -> Liveness:
    """Judge one device's presence.

    Args:
        born_epoch: epoch of its newest birth; None if it never said any.
        born_at: when that birth came, Unix seconds.
        died_at: when the death of that same epoch came, or silence was taken for one; None for neither.
        last_seen: when anything came from it.
        now: the time of this decision.
        lost_after: seconds of silence after which it counts as lost.

    """
    heard = max((at for at in (born_at, last_seen) if at is not None), default=None)
    if born_epoch is None or heard is None:
        return Liveness(Presence.NEVER, Why.UNBORN)
    if died_at is not None and died_at >= heard:
        return Liveness(Presence.LOST, Why.DIED)
    silence = now - heard
    if silence >= lost_after:
        return Liveness(Presence.LOST, Why.SILENT)
    if silence >= lost_after * QUIET_SHARE:
        return Liveness(Presence.STALE, Why.QUIET)
    return Liveness(Presence.ONLINE, Why.HEARD)
