"""Three times the peak for a minute, and what is left after it: goodput under overload, and how soon all is well again.

Goodput counts answers (200) that the client had within the deadline of their request, counted from when it was due; a refusal, an
answer that came later and one that never came are all nothing. Requests come in an open loop with Poisson arrivals, each with what is
left of its deadline (`X-Tideline-Deadline-Ms`), over up to `CONNECTIONS` kept connections, from this process. One that finds none free
until its deadline is never sent; a connection whose answer takes twice the deadline is closed. Client and server share the machine,
so what the client took is reported too (`client_cores`).

Per scenario, against one edge agent (its flags: BENCH_EDGE_ARGS):

1. a closed loop of 64 clients tells about what rate is possible; open loops at shares of it (`PROBES`) find the peak goodput, which
   is the best of them; the best is measured once more at the end, and the larger of the two is the peak that counts;
2. three times that peak is offered for 60 s. `goodput_share` is the goodput of the whole minute over the peak; its interval is that
   of the minute's six stretches of 10 s;
3. without a pause half of the peak is offered for 15 s. `recovery_s` is the second after which each further second has a goodput of
   at least 98 % of what was due in it; a server that never gets there has none. `after_share` is goodput over what was due, from the
   third second on.

Scenarios: the shipped `sentiment-zh` (about a millisecond a text: refusing two thirds of the requests costs a good part of what there
is), and the `base` encoder (some five milliseconds a text: what is decided matters more than what refusing costs).
"""

import asyncio
import contextlib
import gc
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from bench.encoders import encoder, texts
from bench.result import Result
from bench.rounds import Interval, is_quick, of, seconds
from bench.servers import Running, edge_agent, started
from cloud_core.ctl.load.closed import closed_loop
from cloud_core.ctl.load.connection import Address, clock
from cloud_core.ctl.load.cpu import Cpu
from cloud_core.ctl.load.open import OpenLoop, open_loop, poisson
from cloud_core.ctl.load.plan import Plan, Spent
from cloud_core.ctl.load.requests import Requests
from cloud_core.ctl.load.run import allow_files
from cloud_core.demo.sentences import LOAD
from cloud_core.models.shipped import shipped_models
from shared.io.free_ports import find_ports

CLIENTS, CONNECTIONS = 64, 2000
PROBES = (0.7, 0.85, 1.0, 1.15)
TIMES, MINUTE, AFTER = 3.0, 60.0, 15.0
STRETCH = 10.0
HALF, WELL = 0.5, 0.98
SETTLED_S = 3.0


class Scenario(NamedTuple):
    """A bundle, what it is asked, and the deadline of each request in seconds."""

    name: str
    model: str
    bundle: Path
    texts: tuple[str, ...]
    deadline: float

    @property
    def requests(self) -> Requests:
        """Whole requests."""
        bodies = [msgspec.json.encode({"model": self.model, "input_text": text}) for text in self.texts]
        return Requests("/predict", bodies, headers={"Host": "127.0.0.1"}, deadline_s=self.deadline)


class Seen:
    """What became of the requests, by the second in which they were due."""

    def __init__(self, deadline: float, length: float) -> None:
        self.due = [0] * math.ceil(length)
        self.good = [0] * math.ceil(length)
        self.ends: dict[int, int] = {}
        self._deadline = deadline

    def __call__(self, due: float, latency: float, status: int) -> None:
        """A request ended."""
        second = int(due)
        self.due[second] += 1
        self.good[second] += status == 200 and latency <= self._deadline
        self.ends[status] = self.ends.get(status, 0) + 1


def scenarios() -> Iterator[Scenario]:
    """Both."""
    shipped = next(path for path in shipped_models() if path.name == "sentiment-zh")
    yield Scenario("sentiment", "sentiment-zh", shipped, LOAD, 0.25)
    base = encoder("base")
    yield Scenario("base", base.shape.name, base.bundle, tuple(texts(64, tokens=50)), 1.0)


def run() -> Result:
    """Both scenarios, one after the other."""
    metrics: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    notes: list[str] = []
    names = []
    allow_files(CONNECTIONS)
    for scenario in scenarios():
        names.append(scenario.name)
        port = find_ports("127.0.0.1")
        with started(edge_agent([scenario.bundle], port=port), port=port, first=scenario.requests.next()) as server:
            gc.freeze()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_measure(scenario, server, metrics, intervals, notes))
    goals = {
        key: goal
        for name in names
        for key, goal in (
            (f"{name}_goodput_share", (">=", 0.9)),
            (f"{name}_recovery_s", ("<=", SETTLED_S)),
            (f"{name}_after_share", (">=", 0.99)),
        )
    }
    return Result(name="overload", metrics=metrics, goals=goals, intervals=intervals, notes=tuple(notes))


async def _measure(
    scenario: Scenario,
    server: Running,
    metrics: dict[str, float],
    intervals: dict[str, Interval],
    notes: list[str],
) -> None:
    plan = Plan(
        Address("127.0.0.1", server.port),
        scenario.requests,
        seconds=seconds(6.0),
        warm_up_s=seconds(1.5),
        patience_s=2 * scenario.deadline,
        bound_s=scenario.deadline,
        send_within_s=scenario.deadline,
    )
    cpu, name = Cpu(server.pid), scenario.name
    closed = await closed_loop(plan, CLIENTS, cpu)
    probes = {}
    for share in PROBES:
        rate = max(1.0, share * closed.throughput)
        probes[rate] = await open_loop(plan, rate, cpu, connections=CONNECTIONS, is_poisson=True)
    best = max(probes, key=lambda rate: probes[rate].goodput)
    # Nothing over nothing meets no goal.
    peak = probes[best].goodput or math.nan
    minute, after = (3.0, 3.0) if is_quick() else (MINUTE, AFTER)
    due = itertools.chain(poisson(TIMES * peak, minute), poisson(HALF * peak, after, minute, seed=2))
    seen = Seen(scenario.deadline, minute + after)
    loop = OpenLoop(plan, due, seen, connections=CONNECTIONS)
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(loop.close)
        spent = Spent(cpu)
        loop.start()
        await loop.watch(minute)
        server_cores, client_cores = spent.cores(clock())
        at_the_end = dict(seen.ends)
        await loop.watch(minute + after)
        await loop.drain()
    again = (await open_loop(plan, best, cpu, connections=CONNECTIONS, is_poisson=True)).goodput
    peak = max(peak, again) or math.nan
    good, stretch = seen.good[: int(minute)], int(min(STRETCH, minute / 2))
    parts = [sum(good[at : at + stretch]) / stretch / peak for at in range(0, len(good), stretch)]
    settled = int(minute + min(SETTLED_S, after / 2))
    metrics |= {
        f"{name}_closed_requests_per_s": closed.throughput,
        f"{name}_peak_goodput": peak,
        f"{name}_peak_goodput_before": probes[best].goodput,
        f"{name}_peak_goodput_after": again,
        f"{name}_peak_client_cores": probes[best].client_cpu,
        f"{name}_offered": sum(seen.due[: int(minute)]) / minute,
        f"{name}_goodput": sum(good) / minute,
        f"{name}_goodput_share": sum(good) / minute / peak,
        f"{name}_least_second_share": min(good) / peak,
        f"{name}_recovery_s": recovery(seen, int(minute)),
        f"{name}_after_share": sum(seen.good[settled:]) / max(1, sum(seen.due[settled:])),
        f"{name}_server_cores": server_cores,
        f"{name}_client_cores": client_cores,
        f"{name}_connections": float(loop.most),
    }
    if math.isfinite(peak):
        intervals[f"{name}_goodput_share"] = of(parts)
    ends = ", ".join(f"{count} x {status}" for status, count in sorted(at_the_end.items()))
    notes.append(
        f"{name}: deadline {1000 * scenario.deadline:g} ms; ends under overload by status (0 is a broken connection, -1 no "
        f"answer within twice the deadline): {ends}"
    )


def recovery(seen: Seen, minute: int) -> float:
    """Seconds after the drop until each further second is well; where nothing was due, nothing is."""
    if not any(seen.due[minute:]):
        return math.inf
    well = [good >= WELL * due for due, good in zip(seen.due[minute:], seen.good[minute:], strict=True)]
    last = max((i for i, each in enumerate(well) if not each), default=-1)
    return float(last + 1) if last + 1 < len(well) else math.inf
