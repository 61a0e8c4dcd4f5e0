"""What nobody could do better: a bound for every schedule over both places, also one that knows all arrivals and service times.

Minimise, over all schedules that do not interrupt, the sum of each request's cost: its latency where it is answered in time and its
whole deadline where it is not (or, for attainment, 0 and 1). The constraint that at most `lanes` requests are computed at once is relaxed
by a price for each stretch of time at each place (Lagrange): every request then buys, by itself, the cheapest start at the cheaper
place, or is given up, and the sum of these, less what all lanes would earn at these prices, is a lower bound whatever the prices are.
It is as strong as the relaxation in which a request may be split among starts: infinitely divisible, over both places. Prices rise
where more is bought than there is (subgradient with Polyak's step towards `upper`, the best that any policy has done).

Prices are constant within stretches of `STEP_S`; the best start is then where the request begins or ends at the edge of a stretch,
so nothing is rounded and the bound holds exactly. Earliest deadline first is one of the schedules it bounds.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.routing_sim_world import Job, Power

STEP_S = 0.04
ROUNDS = 100
CLOSE = 0.002
"""The bound is close enough once it is within this share of what a policy has done."""


class Bound(NamedTuple):
    """Least sum of costs: seconds of latency, a deadline for what is not answered; and least number not answered."""

    cost: float
    missed: float


class _Starts(NamedTuple):
    """Candidate starts of all requests at one place: `cost` (infinite where it cannot be), and where they begin and end."""

    latency: Any
    begin: Any
    end: Any
    possible: Any
    lanes: int
    edges: int


def bound(
    jobs: Sequence[Job], local: Power, cloud: Power, away: tuple[float, float], *, cost: float, missed: float
) -> Bound:
    """For these jobs; `away`: when the cloud is not there; `cost` and `missed`: the best any policy has done."""
    arrival = np.array([job.arrival for job in jobs])
    deadline = np.array([job.deadline for job in jobs])
    seconds = np.array([job.seconds for job in jobs])
    up, down = np.array([job.up for job in jobs]), np.array([job.down for job in jobs])
    nothing = np.zeros(len(jobs))
    horizon = float(deadline.max()) + STEP_S
    here = _starts(arrival, deadline, seconds / local.speed, nothing, nothing, local.lanes, horizon, None)
    there = _starts(arrival, deadline, seconds / cloud.speed, up, down, cloud.lanes, horizon, away)
    patience = deadline - arrival
    ones = np.ones(len(jobs))
    return Bound(
        _ascend((here, there), patience, upper=cost, timed=True),
        _ascend((here, there), ones, upper=missed, timed=False),
    )


def _starts(  # noqa: PLR0917 - arrays of one length, and where they stand
    arrival: Any,
    deadline: Any,
    takes: Any,
    up: Any,
    down: Any,
    lanes: int,
    horizon: float,
    away: tuple[float, float] | None,
) -> _Starts:
    first, last = arrival + up, deadline - down - takes
    most = int(np.ceil(max(0.0, float((last - first).max())) / STEP_S)) + 2
    steps = np.arange(most) * STEP_S
    begins = np.concatenate(
        (
            first[:, None],
            (np.ceil(first / STEP_S) * STEP_S)[:, None] + steps,
            (np.ceil((first + takes) / STEP_S) * STEP_S - takes)[:, None] + steps,
        ),
        axis=1,
    )
    ends = begins + takes[:, None]
    possible = (begins <= last[:, None] + 1e-9) & (begins >= first[:, None] - 1e-9)
    if away is not None and away[1] > away[0]:
        possible &= (ends <= away[0]) | (begins >= away[1])
    latency = ends + down[:, None] - arrival[:, None]
    return _Starts(latency, begins / STEP_S, ends / STEP_S, possible, lanes, int(horizon / STEP_S) + 2)


def _ascend(places: tuple[_Starts, _Starts], given_up: Any, *, upper: float, timed: bool) -> float:
    edges = places[0].edges
    fixed = [np.where(each.possible, each.latency if timed else 0.0, np.inf) for each in places]
    prices = [np.zeros(edges) for _ in places]
    best, scale, stuck = -np.inf, 1.0, 0
    rows = np.arange(len(given_up))
    for _ in range(ROUNDS):
        least, chosen, where = given_up.copy(), np.zeros(len(given_up), int), np.full(len(given_up), -1)
        for i, (place, cost, price) in enumerate(zip(places, fixed, prices, strict=True)):
            # What time costs up to each edge; between edges it is a straight line.
            paid = np.concatenate(([0.0], np.cumsum(price))) * STEP_S
            total = cost + _at(paid, place.end) - _at(paid, place.begin)
            cheapest = total.argmin(axis=1)
            found = total[rows, cheapest]
            better = found < least
            least = np.where(better, found, least)
            chosen, where = np.where(better, cheapest, chosen), np.where(better, i, where)
        value = float(least.sum()) - sum(
            place.lanes * float(price.sum()) * STEP_S for place, price in zip(places, prices, strict=True)
        )
        stuck = 0 if value > best + 1e-6 else stuck + 1
        best = max(best, value)
        if upper - best <= CLOSE * upper + 1e-9:
            break
        if stuck == 8:
            scale, stuck = scale / 2, 0
        slopes = [_busy(place, rows[where == i], chosen[where == i]) - place.lanes for i, place in enumerate(places)]
        # A price of nothing cannot fall.
        slopes = [np.where((slope < 0) & (price <= 0), 0.0, slope) for slope, price in zip(slopes, prices, strict=True)]
        length = sum(float((slope**2).sum()) for slope in slopes)
        if length == 0.0:
            break
        step = scale * (upper - value) / (length * STEP_S)
        prices = [np.maximum(0.0, price + step * slope) for slope, price in zip(slopes, prices, strict=True)]
    return min(best, upper)


def _at(paid: Any, when: Any) -> Any:
    whole = np.minimum(when.astype(int), len(paid) - 2)
    return paid[whole] + (paid[whole + 1] - paid[whole]) * np.minimum(1.0, when - whole)


def _busy(place: _Starts, rows: Any, chosen: Any) -> Any:
    """How many are computed at once on average, in each stretch."""
    begin, end = place.begin[rows, chosen], place.end[rows, chosen]
    first, last = begin.astype(int), np.minimum(end.astype(int), place.edges - 1)
    change = np.zeros(place.edges + 1)
    np.add.at(change, first, 1.0)
    np.add.at(change, last, -1.0)
    busy = np.cumsum(change)[:-1]
    np.add.at(busy, first, first - begin)
    np.add.at(busy, last, end - last)
    return busy
