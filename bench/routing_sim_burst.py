"""A thousand devices saturate at the same moment: do they drive their common cloud past its admission?

Each device is a place of its own with what its agent knows (`CloudTarget`: window, lottery, breaker); all share one cloud and hear what
its gateway announces each second. Before the burst every device has half the work it can do, in the burst three times as much.
"""

import random
from typing import NamedTuple

from bench.routing_sim_device import CloudSide, Fault, Routed
from bench.routing_sim_traces import ServiceTimes
from bench.routing_sim_world import Job, Place, Power, World
from edge_agent.serving.cloud import CloudTarget
from shared.protocol.policy import Mode, Policy, rules_for
from shared.protocol.pressure import Pressure
from shared.serving.decide.admission import Limits

DEVICES, QUICK_DEVICES = 1000, 40
BEFORE_S, BURST_S = 1.0, 1.5
LOADS = (0.5, 3.0)
RTT_S = 0.04
DEADLINE_S = 1.0
TOKENS = (16, 32, 48, 64, 96)
SHARE = 5
"""The cloud computes as much as a fifth of the devices together, on lanes twice as fast."""
LANES = 4
"""Of one replica: each has the hard bounds of an engine."""


class Burst(NamedTuple):
    """`attainment`: share answered in time.

    `asked` and `shed`: requests that reached the cloud, and those its admission turned away; `entries`: the most it had under way, as
    a share of what it admits; `wait`: the longest wait it expected, in seconds.
    """

    attainment: float
    asked: int
    shed: int
    entries: float
    wait: float


def burst(times: ServiceTimes, mode: Mode, *, devices: int = DEVICES) -> Burst:
    """All of them, in one world."""
    world, source = World(), random.Random(1)
    lanes = max(LANES, devices // (2 * SHARE))
    replicas = lanes / LANES
    limits = Limits(entries=round(Limits().entries * replicas), tokens=round(Limits().tokens * replicas))
    place = Place(world, Power(lanes, 2.0), times, limits=limits)
    cloud = CloudSide(world, place, Fault.NONE, (0.0, 0.0))
    rules = rules_for(Policy(mode=mode), "m")
    mean = sum(map(times.mean, TOKENS)) / len(TOKENS)
    targets: list[CloudTarget] = []
    jobs: list[Job] = []
    for i in range(devices):
        target = CloudTarget(clock=world, draw=random.Random(i).random)
        target.enrolled(silence=lambda: 0.0)
        targets.append(target)
        device = Routed(world, Place(world, Power(), times), cloud, target, rules)
        when = 0.0
        while True:
            when += source.expovariate(LOADS[when >= BEFORE_S] / mean)
            if when >= BEFORE_S + BURST_S:
                break
            tokens = source.choice(TOKENS)
            up, down = (RTT_S / 2 * (1 + 0.1 * source.random()) for _ in range(2))
            seconds = times.of(tokens, source.random())
            job = Job(len(jobs), when, tokens, DEADLINE_S, seconds=seconds, up=up, down=down, sure=1.0)
            jobs.append(job)
            world.at(when, device.ask, job)

    def tell(pressure: Pressure) -> None:
        def heard() -> None:
            for target in targets:
                target.announced(pressure)

        world.at(world.now + RTT_S / 2, heard)

    world.at(0.0, cloud.announce, tell, BEFORE_S + BURST_S)
    world.run()
    answered = sum(job.latency is not None for job in jobs)
    return Burst(
        attainment=answered / len(jobs),
        asked=place.taken + place.shed,
        shed=place.shed,
        entries=place.most_entries / limits.entries,
        wait=place.most_wait,
    )
