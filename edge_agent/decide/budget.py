"""The policy's cloud budget: requests per minute and per day, in fixed windows of the wall clock.  Pure."""

import msgspec

from shared.protocol.policy import CloudBudget

MINUTE_S = 60.0
DAY_S = 86400.0


class Spent(msgspec.Struct, frozen=True):
    """Requests that went to the cloud in the newest minute and day seen, windows counted since 1970 (UTC)."""

    minute: int = 0
    in_minute: int = 0
    day: int = 0
    in_day: int = 0


def spend(spent: Spent, *, wall: float) -> Spent:
    """One more request at `wall`, Unix seconds."""
    now = _at(spent, wall)
    return Spent(now.minute, now.in_minute + 1, now.day, now.in_day + 1)


def left(spent: Spent, budget: CloudBudget, *, wall: float) -> int | None:
    """How many requests may still go; None is unlimited."""
    now = _at(spent, wall)
    bounds = [
        most - used
        for most, used in ((budget.per_minute, now.in_minute), (budget.per_day, now.in_day))
        if most is not None
    ]
    return max(0, min(bounds)) if bounds else None


def _at(spent: Spent, wall: float) -> Spent:
    # Another window is another budget, also after a clock that ran ahead was set right: waiting for the future would bar the cloud.
    minute, day = int(wall // MINUTE_S), int(wall // DAY_S)
    return Spent(
        minute,
        spent.in_minute if minute == spent.minute else 0,
        day,
        spent.in_day if day == spent.day else 0,
    )
