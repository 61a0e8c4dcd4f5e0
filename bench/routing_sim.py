"""Routing, replayed: the agent's own `route` over recorded service times in virtual time, against rivals and a bound nobody beats.

Every cell of arrivals x load x round trip x cloud x outage is replayed by each contestant, with the same requests, service
times and ways over the link. The contestants: `fastest` and `local-first` (modes of `edge_agent/decide/routing.py`, with
everything else the agent decides beside it), the modes `local-only` and `cloud-only`, `threshold` (the device until eight wait, as
most systems would) and `confidence` (the device always, the cloud as well for the least sure fifth). A request that is not
answered in time costs its whole deadline.

Times are virtual, so a busy machine changes nothing but the decision's own time. `python -m bench.routing_sim TRACE ...`
replays other traces (see `bench/routing_sim_traces.py`) and shows their table.
"""

import math
import random
import statistics
import sys
import timeit
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bench import routing_sim_burst, routing_sim_plots
from bench.findings import Findings
from bench.result import RESULTS, Result
from bench.rounds import is_quick
from bench.routing_sim_bound import bound
from bench.routing_sim_device import ByConfidence, CloudSide, Fault, Routed, Threshold
from bench.routing_sim_online import online
from bench.routing_sim_traces import FOLDER, NAMES, Arrival, ServiceTimes, at_load, read, service_times
from bench.routing_sim_world import Job, Place, Power, World
from edge_agent.decide.routing import Ask, CloudState, LocalState, route
from edge_agent.serving.cloud import CloudTarget
from shared.protocol.policy import Mode, Policy, rules_for

LOCAL = Power()
CLOUDS = {"half": Power(1, 0.5), "double": Power(1, 2.0), "eightfold": Power(4, 2.0)}
LOADS = (0.3, 0.6, 0.9, 1.2, 2.0, 3.0)
RTTS_MS = (5, 40, 120, 300)
MODES = (Mode.FASTEST, Mode.LOCAL_FIRST, Mode.LOCAL_ONLY, Mode.CLOUD_ONLY)
CONTESTANTS = (*(mode.value for mode in MODES), "threshold", "confidence")
OURS = (Mode.FASTEST.value, Mode.LOCAL_FIRST.value)
AWAY = (0.4, 0.6)
"""An outage lasts a fifth of the trace."""
JITTER = 0.1
"""Each way over the link takes up to this share longer, evenly."""


class Cell(NamedTuple):
    """One replay. `rtt` in seconds."""

    trace: str
    load: float
    rtt: float
    cloud: str
    fault: Fault

    @property
    def name(self) -> str:
        """Such as `bursts, load 0.9, 40 ms, cloud double, down`."""
        away = "" if self.fault is Fault.NONE else f", {self.fault}"
        return f"{self.trace}, load {self.load:g}, {1e3 * self.rtt:g} ms, cloud {self.cloud}{away}"


class Score(NamedTuple):
    """Share answered in time, and mean seconds with a deadline for each that was not."""

    attainment: float
    mean: float


class Found(NamedTuple):
    """One cell. `bound`: the most that can be answered in time, and the least mean; `online`: the best found without the future."""

    cell: Cell
    scores: dict[str, Score]
    bound: Score
    online: Score


def cells(traces: Sequence[str]) -> list[Cell]:
    """All of them; outages are replayed at three loads, two round trips and two clouds."""
    if is_quick():
        return [
            Cell(trace, load, rtt / 1e3, "double", fault)
            for trace, load, rtt, fault in product(traces, (0.6, 2.0), (40,), (Fault.NONE, Fault.DOWN))
        ]
    up = [Cell(*each, Fault.NONE) for each in product(traces, LOADS, [ms / 1e3 for ms in RTTS_MS], CLOUDS)]
    away = product(traces, (0.6, 1.2, 3.0), (0.04, 0.3), ("double", "eightfold"), (Fault.DOWN, Fault.SILENT))
    return [*up, *(Cell(*each) for each in away)]


def jobs_of(arrivals: Sequence[Arrival], times: ServiceTimes, rtt: float, *, seed: int = 0) -> list[Job]:
    """The requests, each with what it will take: the same for every contestant."""
    draw = random.Random(seed).random
    return [
        Job(
            i,
            each.arrival,
            each.tokens,
            each.deadline,
            seconds=times.of(each.tokens, draw()),
            up=rtt / 2 * (1 + JITTER * draw()),
            down=rtt / 2 * (1 + JITTER * draw()),
            sure=draw(),
        )
        for i, each in enumerate(arrivals)
    ]


def replay(name: str, arrivals: Sequence[Arrival], times: ServiceTimes, cell: Cell) -> list[Job]:
    """What one contestant makes of one cell."""
    world = World()
    jobs = jobs_of(arrivals, times, cell.rtt)
    local, place = Place(world, LOCAL, times), Place(world, CLOUDS[cell.cloud], times)
    cloud = CloudSide(world, place, cell.fault, away_of(jobs, cell))
    target = CloudTarget(clock=world, draw=random.Random(1).random)
    target.enrolled(silence=lambda: 0.0)
    device: Routed | Threshold | ByConfidence
    match name:
        case "threshold":
            device = Threshold(world, local, cloud, target)
        case "confidence":
            device = ByConfidence(world, local, cloud, target)
        case _:
            device = Routed(world, local, cloud, target, rules_for(Policy(mode=Mode(name)), "m"))
    for job in jobs:
        world.at(job.arrival, device.ask, job)
    world.at(0.0, cloud.announce, target.announced, jobs[-1].arrival)
    world.run()
    return jobs


def away_of(jobs: Sequence[Job], cell: Cell) -> tuple[float, float]:
    """When the cloud is away."""
    if cell.fault is Fault.NONE:
        return (0.0, 0.0)
    return AWAY[0] * jobs[-1].arrival, AWAY[1] * jobs[-1].arrival


def examine(cell: Cell) -> Found:
    """Every contestant and the bound."""
    times = service_times()
    arrivals = at_load(read(_path(cell.trace)), cell.load, times)
    if is_quick():
        arrivals = arrivals[:120]
    scores, costs, missed = {}, [], []
    jobs: list[Job] = []
    for name in CONTESTANTS:
        jobs = replay(name, arrivals, times, cell)
        costs.append(math.fsum(job.deadline - job.arrival if job.latency is None else job.latency for job in jobs))
        missed.append(sum(job.latency is None for job in jobs))
        scores[name] = Score(1 - missed[-1] / len(jobs), costs[-1] / len(jobs))
    cloud, away = CLOUDS[cell.cloud], away_of(jobs, cell)
    best = online(jobs, LOCAL, cloud, away)
    # The bound is as close as what was done best lets it come.
    upper, fewest = min(*costs, best.cost), min(*missed, best.missed)
    least = bound(jobs, LOCAL, cloud, away, cost=upper, missed=fewest)
    return Found(
        cell,
        scores,
        Score(1 - least.missed / len(jobs), least.cost / len(jobs)),
        Score(1 - best.missed / len(jobs), best.cost / len(jobs)),
    )


def _path(trace: str) -> Path:
    return FOLDER / f"{trace}.jsonl" if trace in NAMES else Path(trace)


def decision_us() -> float:
    """Microseconds of one `route`, the least of many loops: the one figure here that the machine has a say in."""
    rules = rules_for(Policy(mode=Mode.FASTEST), "m")
    ask, local = Ask(deadline=1.0), LocalState(expected_wait=0.2, service=0.01)
    cloud = CloudState(permitted=True, estimate=0.1)
    number = 200 if is_quick() else 5000
    return 1e6 * min(timeit.repeat(lambda: route(ask, local, cloud, rules, now=0.0), number=number, repeat=7)) / number


def run() -> Result:
    """The grid, the burst and the decision's own time; pictures go beside the results."""
    with ProcessPoolExecutor(max_workers=2) as pool:
        found = list(pool.map(examine, cells(NAMES), chunksize=4))
    findings = Findings()
    for name in CONTESTANTS:
        _summed(findings, name, found)
    # Where everything could be answered in time, nobody has to choose whom to give up.
    possible = [each for each in found if each.bound.attainment >= 1.0]
    findings.metrics["feasible_cells"] = len(possible)
    for name in (*OURS, "threshold"):
        mean = statistics.fmean(each.scores[name].attainment for each in possible)
        findings.metrics[f"{_plain(name)}_attainment_of_bound_feasible"] = mean
    findings.metrics["online_attainment_of_bound"] = statistics.fmean(
        each.online.attainment / each.bound.attainment for each in found
    )
    findings.metrics["online_mean_over_bound"] = statistics.fmean(each.online.mean / each.bound.mean for each in found)
    findings.metrics["decision_us"] = decision_us()
    findings.goals["decision_us"] = ("<", 50.0)
    devices = routing_sim_burst.QUICK_DEVICES if is_quick() else routing_sim_burst.DEVICES
    for mode in (Mode.FASTEST, Mode.LOCAL_FIRST, Mode.LOCAL_ONLY):
        seen = routing_sim_burst.burst(service_times(), mode, devices=devices)
        findings.metrics[f"burst_{_plain(mode.value)}_attainment"] = seen.attainment
        if mode is not Mode.LOCAL_ONLY:
            findings.metrics[f"burst_{_plain(mode.value)}_shed_share"] = seen.shed / max(1, seen.asked)
            findings.goals[f"burst_{_plain(mode.value)}_shed_share"] = ("<=", 0.0)
            findings.metrics[f"burst_{_plain(mode.value)}_most_wait_ms"] = 1e3 * seen.wait
    if not is_quick():
        routing_sim_plots.write(RESULTS / "routing_sim.png", found, contestants=CONTESTANTS)
    times = service_times()
    findings.notes += [
        f"{len(found)} cells of {len(read(_path(NAMES[0])))} requests each; {devices} devices in the burst",
        f"service times: {times.model}, {times.machine['cpu']}, {len(times.seconds)} lengths",
        *_worst_notes(found),
    ]
    return findings.result("routing_sim")


def _summed(findings: Findings, name: str, found: Sequence[Found]) -> None:
    """Mean, fifth percentile and worst over the cells, against the bound and against the better single place."""
    plain, goals = _plain(name), name == Mode.FASTEST.value
    attained = sorted(each.scores[name].attainment / each.bound.attainment for each in found)
    took = sorted((each.scores[name].mean / each.bound.mean for each in found), reverse=True)
    worse = sorted((_worse(name, each) for each in found), reverse=True)
    for what, values, goal in (
        ("attainment_of_bound", attained, (">=", 0.99)),
        ("mean_over_bound", took, ("<=", 1.1)),
        ("worse_than_one_place", worse, ("<=", 0.05)),
    ):
        if name in (Mode.LOCAL_ONLY.value, Mode.CLOUD_ONLY.value) and what == "worse_than_one_place":
            continue
        findings.metrics[f"{plain}_{what}"] = statistics.fmean(values)
        findings.metrics[f"{plain}_{what}_p5"] = values[len(values) // 20]
        findings.metrics[f"{plain}_{what}_worst"] = values[0]
        if goals:
            findings.goals[f"{plain}_{what}" + ("_worst" if what == "worse_than_one_place" else "")] = goal


def _worse(name: str, found: Found) -> float:
    """By what share the mean is longer, or the share answered smaller, than that of the better single place, whichever is worse."""
    ours, places = found.scores[name], [found.scores[each.value] for each in (Mode.LOCAL_ONLY, Mode.CLOUD_ONLY)]
    longer = ours.mean / min(each.mean for each in places) - 1
    fewer = 1 - ours.attainment / max(each.attainment for each in places)
    return max(longer, fewer)


def _worst_notes(found: Sequence[Found]) -> list[str]:
    name = Mode.FASTEST.value

    def said(what: str, values: dict[str, float], *, most: bool) -> str:
        ranked = sorted(values.items(), key=lambda each: each[1], reverse=most)[:5]
        return f"{name}, worst cells by {what}: " + "; ".join(f"{cell} ({value:.2f})" for cell, value in ranked)

    attained = {each.cell.name: each.scores[name].attainment / each.bound.attainment for each in found}
    took = {each.cell.name: each.scores[name].mean / each.bound.mean for each in found}
    worse = {each.cell.name: _worse(name, each) for each in found}
    return [
        said("share in time over the bound's", attained, most=False),
        said("mean over the bound's", took, most=True),
        said("share worse than the better single place", worse, most=True),
        f"{name} is more than 5 % worse than the better single place in {sum(each > 0.05 for each in worse.values())} cells",
    ]


def _plain(name: str) -> str:
    return name.replace("-", "_")


def table(found: Sequence[Found]) -> Table:
    """Each cell: share in time and mean milliseconds of the bound and of each contestant."""
    shown = Table("cell", "bound", *CONTESTANTS, title="share in time, mean ms")
    for each in found:
        scores = [each.bound, *(each.scores[name] for name in CONTESTANTS)]
        shown.add_row(each.cell.name, *(f"{100 * score.attainment:.1f} % {1e3 * score.mean:.0f}" for score in scores))
    return shown


def main(arguments: list[str]) -> int:
    """Replay other traces: every cell of each, without outages."""
    console = Console()
    for path in arguments:
        grid = product([path], LOADS, [ms / 1e3 for ms in RTTS_MS], CLOUDS, [Fault.NONE])
        console.print(table([examine(Cell(*each)) for each in grid]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
