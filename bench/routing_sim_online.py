"""What is to be had without knowing the future: a greedy schedule that sees everything else.

The bound knows all arrivals, and answers in any order. This takes requests in the order they come and answers them in that order, as the
places do; but it knows what each takes, how long both queues and both ways are and when the cloud is away, and it learns nothing.
A request goes where its own time and what it costs those behind it (`edge_agent/decide/displacement`, with one factor for each place)
is least, or is given up where that is more than its deadline. Both factors are the best of `FACTORS` in hindsight, cell by cell: once for
the mean, once for the share in time. No policy of the agent has any of this, so what lies between it and the bound is nobody's to get,
as far as this schedule tells: it bounds nothing.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from bench.routing_sim_world import Job, Power
from edge_agent.decide.displacement import displaced

FACTORS = (0.0, 3.0, 30.0, 100.0)


class Online(NamedTuple):
    """The least sum of costs, and the least number not answered in time; not of one schedule."""

    cost: float
    missed: int


def online(jobs: Sequence[Job], local: Power, cloud: Power, away: tuple[float, float]) -> Online:
    """For these jobs, in order of arrival; `away`: when the cloud is not there."""
    found = [_schedule(jobs, local, cloud, away, factors) for factors in product(FACTORS, FACTORS)]
    return Online(min(cost for cost, _ in found), min(missed for _, missed in found))


def _schedule(
    jobs: Sequence[Job], local: Power, cloud: Power, away: tuple[float, float], factors: tuple[float, float]
) -> tuple[float, int]:
    here, there = factors
    free_here, free_there = [0.0] * local.lanes, [0.0] * cloud.lanes
    cost, missed = 0.0, 0
    for job in jobs:
        least = patience = job.deadline - job.arrival
        price, lane, lanes, end = patience, 0, None, 0.0
        for place, free, way, followers in ((local, free_here, 0.0, here), (cloud, free_there, job.up, there)):
            first = min(range(place.lanes), key=free.__getitem__)
            begin, work = max(job.arrival + way, free[first]), job.seconds / place.speed
            latency = begin + work - job.arrival + (job.down if place is cloud else 0.0)
            barred = place is cloud and begin < away[1] and begin + work > away[0]
            dear = latency + displaced(followers, wait=begin - job.arrival - way, work=work) / place.lanes
            if not barred and latency <= patience and dear < price:
                least, price, lane, lanes, end = latency, dear, first, free, begin + work
        cost += least
        if lanes is None:
            missed += 1
        else:
            lanes[lane] = end
    return cost, missed
