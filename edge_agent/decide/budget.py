"""The policy's cloud budget: requests per minute and per day, and what they cost, in fixed windows of the wall clock.  Pure."""

import math

import msgspec

from shared.protocol.policy import CloudBudget

MINUTE_S = 60.0
DAY_S = 86400.0
_ROUNDING = 1e-9
"""Of a request: sums of prices are no exact numbers."""


class Spent(msgspec.Struct, frozen=True):
    """What went to the cloud in the newest minute and day seen, windows counted since 1970 (UTC).

    `price_in_day` is in the currency of the policy's prices, whatever that is; each request at the price of its own time.
    """

    minute: int = 0
    in_minute: int = 0
    day: int = 0
    in_day: int = 0
    price_in_day: float = 0.0


def spend(spent: Spent, *, wall: float, price: float = 0.0) -> Spent:
    """One more request at `wall`, Unix seconds, for `price`."""
    now = _at(spent, wall)
    return Spent(now.minute, now.in_minute + 1, now.day, now.in_day + 1, now.price_in_day + price)


def left(spent: Spent, budget: CloudBudget, *, wall: float) -> int | None:
    """How many requests may still go; None is unlimited."""
    bounds = [most for most in _left(_at(spent, wall), budget) if most is not None]
    return max(0, min(bounds)) if bounds else None


def renewed_in(spent: Spent, budget: CloudBudget, *, wall: float) -> float:
    """Seconds until a request may go again; 0 where one may now, and where no other window would help."""
    minute, day, price = _left(_at(spent, wall), budget)
    waits = [0.0]
    if minute is not None and minute <= 0 < (budget.per_minute or 0):
        waits.append(MINUTE_S - wall % MINUTE_S)
    fresh = _left(Spent(), budget)
    for now, then in ((day, fresh[1]), (price, fresh[2])):
        if now is not None and now <= 0 < (then or 0):
            waits.append(DAY_S - wall % DAY_S)
    return max(waits)


def smallest(budget: CloudBudget) -> int | None:
    """The most requests that may go in any of its windows, from its beginning; None is unlimited."""
    return left(Spent(), budget, wall=0.0)


def _left(now: Spent, budget: CloudBudget) -> tuple[int | None, int | None, int | None]:
    """By minute, by day, and by price."""
    return (
        None if budget.per_minute is None else budget.per_minute - now.in_minute,
        None if budget.per_day is None else budget.per_day - now.in_day,
        None
        if budget.price_per_day is None or not budget.price_per_request
        else math.floor((budget.price_per_day - now.price_in_day) / budget.price_per_request + _ROUNDING),
    )


def _at(spent: Spent, wall: float) -> Spent:
    # Another window is another budget, also after a clock that ran ahead was set right: waiting for the future would bar the cloud.
    minute, day = int(wall // MINUTE_S), int(wall // DAY_S)
    same_day = day == spent.day
    return Spent(
        minute,
        spent.in_minute if minute == spent.minute else 0,
        day,
        spent.in_day if same_day else 0,
        spent.price_in_day if same_day else 0.0,
    )
