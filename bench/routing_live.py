"""The routing of real processes: a device and a replica, each held to its share of a core, a relay of 40 ms between them.

A `base` encoder (int8) answers texts of `TOKENS` tokens, each within `DEADLINE_S`; the policy is `fastest`. The device computes under
`EDGE_SHARE` of a core, the replica under what makes its capacity `RATIO` times the device's: three times the device's capacity is then
what both can just give, and 90 % of their sum is not more than what is asked. At such a load even one queue for both places has waits of
a second now and then: hence the deadline. Gateway, relay and load are under no quota; what the device spends on handing requests over
is taken from its own share.

1. **Alone.** A closed loop of clients tells what each gives by itself: the device is asked for what may not leave it, the replica by
   its gateway. The replica's share is then set for the wanted ratio, and it is measured again, until the ratio is right.
2. **Three times** the device's capacity in an open loop with Poisson arrivals, `LENGTH_S` long after `WARM_S` that are reported by
   themselves: a window on the cloud begins at one. Nothing but an answer in time is goodput. An error is whatever is neither an
   answer nor a refusal for load (429); a refusal is not inside the deadline.
3. **What the device could answer itself**, 0.7 of its capacity: first kept on the device, which tells what is lost without any
   cloud; then the same arrivals with a cloud that accepts and never answers (hedges after `HEDGE_MS`), and with one that is killed in the
   middle. What is lost then beyond what the device loses alone is the cloud's fault. `black_hole_extra_over_hedge` is by how much
   the p99 grew, over the hedge.
4. **Three times, and the cloud is killed** in the middle: goodput from then on over what the device gives alone.
"""

import asyncio
import contextlib
import gc
import math
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from bench.client import quantile
from bench.encoders import encoder, texts
from bench.live_platform import LivePlatform, only
from bench.quota import NoQuotaError, Quota
from bench.result import Goal, Result
from bench.rounds import is_quick
from bench.slow_link import SlowLink
from cloud_core.ctl.load.closed import closed_loop
from cloud_core.ctl.load.connection import Address
from cloud_core.ctl.load.cpu import Cpu
from cloud_core.ctl.load.open import OpenLoop, poisson
from cloud_core.ctl.load.plan import Plan
from cloud_core.ctl.load.requests import Requests
from cloud_core.ctl.load.run import allow_files
from shared.protocol.topics import Header

EDGE_SHARE, RATIO = 0.35, 2.25
RATIO_WITHIN, TRIES = 0.1, 4
ROUND_TRIP_S, DEADLINE_S, TOKENS = 0.04, 2.0, 128
HEDGE_MS = 400.0
"""Longer than nearly every answer of a cloud that is well: hedges of those would use up what a mute one needs (the retry budget)."""
TIMES, WITHIN = 3.0, 0.7
ALONE_S, WARM_S, LENGTH_S = 12.0, 10.0, 45.0
CLIENTS, CONNECTIONS = 8, 512
VARIANT = "cpu-int8"
POLICY: dict[str, object] = {"mode": "fastest", "deadline_ms": DEADLINE_S * 1e3}
HEDGED = POLICY | {"hedge_after_ms": HEDGE_MS}
GOALS: dict[str, Goal] = {
    "errors": ("<=", 0.0),
    "inside_share": (">=", 0.99),
    "goodput_share": (">=", 0.9),
    "killed_lost": ("<=", 0.0),
    "black_hole_lost": ("<=", 0.0),
    "black_hole_extra_over_hedge": ("<=", 1.0),
}
KEPT_HERE = {Header.PRIVACY: "local-only"}
Happens = Callable[[], Awaitable[None]]


class End(NamedTuple):
    """A request: when it was due, how long its end took, in seconds, and its status (`cloud_core.ctl.load.count`)."""

    due: float
    latency: float
    status: int

    @property
    def good(self) -> bool:
        """An answer in time."""
        return self.status == 200 and self.latency <= DEADLINE_S

    @property
    def is_error(self) -> bool:
        """Neither an answer nor a refusal for load."""
        return self.status not in (200, 429)


class Bench:
    """What is measured, on one platform."""

    def __init__(
        self, platform: LivePlatform, link: SlowLink, model: str, bodies: list[bytes], *, scale: float = 1.0
    ) -> None:
        """`scale` shortens every phase."""
        self.metrics: dict[str, float] = {}
        self.notes: list[str] = []
        self._platform = platform
        self._link = link
        self._model = model
        self._bodies = bodies
        self._scale = scale

    def _plan(self, port: int, seconds: float, headers: Mapping[str, str]) -> Plan:
        return Plan(
            Address("127.0.0.1", port),
            Requests("/predict", self._bodies, headers={"Host": "127.0.0.1", **headers}, deadline_s=DEADLINE_S),
            seconds=seconds * self._scale,
            warm_up_s=max(1.0, seconds * self._scale / 4),
            patience_s=2 * DEADLINE_S,
            bound_s=DEADLINE_S,
            send_within_s=DEADLINE_S,
        )

    async def alone(self) -> tuple[float, float]:
        """Requests per second that each gives by itself, under its share."""
        here = await self._closed(self._platform.edge_port, CLIENTS, KEPT_HERE)
        share = EDGE_SHARE * RATIO
        there = 0.0
        for _ in range(TRIES):
            self._platform.replica.set(share)
            bearer = {"Authorization": f"Bearer {self._platform.fleet.token}"}
            there = await self._closed(self._platform.gateway_port, 2 * CLIENTS, bearer)
            last, share = share, share * RATIO * here / max(there, 1e-9)
            if abs(there / here - RATIO) < RATIO_WITHIN:
                break
        self.metrics |= {
            "edge_share": EDGE_SHARE,
            "replica_share": last,
            "local_capacity": here,
            "cloud_capacity": there,
        }
        return here, there

    async def _closed(self, port: int, clients: int, headers: Mapping[str, str]) -> float:
        step = await closed_loop(self._plan(port, ALONE_S, headers), clients, Cpu(None))
        return step.inside / step.seconds

    async def offered(
        self, name: str, rate: float, length: float, *, middle: Happens | None = None, headers: Mapping[str, str] = {}
    ) -> list[End]:
        """How `rate` requests a second for `length` seconds ended; in their middle, `middle` happens."""
        ends: list[End] = []
        length *= self._scale
        plan = self._plan(self._platform.edge_port, length, headers)
        due = poisson(rate, length)
        before = await self._platform.counted()
        loop = OpenLoop(plan, due, lambda *end: ends.append(End(*end)), connections=CONNECTIONS)
        try:
            loop.start()
            await loop.watch(length / 2)
            if middle is not None:
                await middle()
            await loop.watch(length)
            await loop.drain()
        finally:
            await loop.close()
        after = await self._platform.counted()
        statuses = Counter(str(end.status) for end in ends)
        attempts = {
            key: after[key] - before.get(key, 0.0) for key in sorted(after) if after[key] > before.get(key, 0.0)
        }
        self.notes.append(f"{name}: {_told(statuses)}; counted on the device: {_told(attempts)}")
        print(self.notes[-1])
        return ends

    async def three_times(self, here: float, there: float) -> None:
        """The whole load that both can just give."""
        warm = WARM_S * self._scale
        ends = await self.offered("three times", TIMES * here, WARM_S + LENGTH_S)
        cold, ends = [end for end in ends if end.due < warm], [end for end in ends if end.due >= warm]
        good = sum(end.good for end in ends)
        goodput = good / (LENGTH_S * self._scale)
        latencies = sorted(1e3 * end.latency for end in ends if end.status == 200)
        self.metrics |= {
            "offered": len(ends) / (LENGTH_S * self._scale),
            "goodput": goodput,
            "goodput_share": goodput / (here + there),
            "inside_share": good / max(1, len(ends)),
            "errors": float(sum(end.is_error for end in ends)),
            "refused_share": sum(end.status == 429 for end in ends) / max(1, len(ends)),
            "warming_inside_share": sum(end.good for end in cold) / max(1, len(cold)),
            "p50_ms": quantile(latencies, 0.5),
            "p99_ms": quantile(latencies, 0.99),
        }

    async def without_the_cloud(self, here: float) -> None:
        """What a cloud costs that never answers, and one that dies, where the device could answer everything."""
        rate = WITHIN * here
        await self._platform.follow(HEDGED)
        alone = await self.offered("alone", rate, LENGTH_S, headers=KEPT_HERE)
        await self.offered("healthy", rate, WARM_S)

        async def swallow() -> None:
            self._link.swallows = True

        hole = await self.offered("black hole", rate, LENGTH_S, middle=swallow)
        self._link.swallows = False
        await self._healthy(rate)
        killed = await self.offered("killed", rate, LENGTH_S, middle=self._platform.kill_cloud)
        late = LENGTH_S * self._scale / 2
        self.metrics |= {"alone_lost": float(_lost(alone)), "alone_p99_ms": _p99(alone, late)}
        for name, ends in (("black_hole", hole), ("killed", killed)):
            self.metrics[f"{name}_lost"] = float(_lost(ends) - _lost(alone))
            self.metrics[f"{name}_p99_ms"] = _p99(ends, late)
        extra = self.metrics["black_hole_p99_ms"] - self.metrics["alone_p99_ms"]
        self.metrics["black_hole_extra_over_hedge"] = extra / HEDGE_MS

    async def overloaded_and_killed(self, here: float) -> None:
        """Three times, until there is no cloud any more."""
        await self._platform.start_cloud()
        await self._platform.replica_ready(self._model)
        await self._platform.follow(POLICY)
        await self._healthy(WITHIN * here)
        ends = await self.offered("three times, killed", TIMES * here, LENGTH_S, middle=self._platform.kill_cloud)
        half = LENGTH_S * self._scale / 2
        after = [end for end in ends if end.due >= half]
        self.metrics |= {
            "killed_overload_errors": float(sum(end.is_error for end in ends)),
            "killed_overload_goodput_share": sum(end.good for end in after) / half / here,
        }

    async def _healthy(self, rate: float) -> None:
        """Ask until the cloud answers again: a breaker that opened is half-opened by requests alone."""
        for _ in range(20):
            before = (await self._platform.counted()).get("cloud/ok", 0.0)
            await self.offered("until the cloud answers again", rate * 2, WARM_S)
            if (await self._platform.counted()).get("cloud/ok", 0.0) > before + 3:
                return
        raise RuntimeError(f"the cloud does not answer any more: {self._platform.logs()}")


def run() -> Result:
    """All of it; where no quota can be set, a result without metrics that says why."""
    allow_files(CONNECTIONS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_run("small", 0.1) if is_quick() else _run("base", 1.0))
        except NoQuotaError as error:
            print(f"routing_live is skipped: no CPU quota can be set here ({error})")
            return Result(name="routing_live", metrics={}, goals=GOALS, notes=(f"skipped: {error}",))


async def _run(name: str, scale: float) -> Result:
    made = encoder(name)
    model = made.shape.name
    bodies = [msgspec.json.encode({"model": model, "input_text": text}) for text in texts(64, tokens=TOKENS)]
    async with _platform() as (platform, link, folder):
        await platform.serve(only(VARIANT, made.bundle, folder / "bundle"), model, POLICY)
        gc.freeze()
        bench = Bench(platform, link, model, bodies, scale=scale)
        here, there = await bench.alone()
        await bench.three_times(here, there)
        await bench.without_the_cloud(here)
        await bench.overloaded_and_killed(here)
    return Result(name="routing_live", metrics=bench.metrics, goals=GOALS, notes=tuple(bench.notes))


@contextlib.asynccontextmanager
async def _platform() -> AsyncIterator[tuple[LivePlatform, SlowLink, Path]]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tideline-live-")))
        edge = stack.enter_context(Quota("edge", EDGE_SHARE))
        replica = stack.enter_context(Quota("replica", EDGE_SHARE * RATIO))
        async with (
            SlowLink(round_trip=ROUND_TRIP_S) as link,
            LivePlatform(folder, link, edge, replica) as platform,
        ):
            try:
                yield platform, link, folder
            except BaseException:
                print(platform.logs())
                raise


def _lost(ends: list[End]) -> int:
    return sum(not end.good for end in ends)


def _p99(ends: list[End], since: float) -> float:
    found = sorted(1e3 * end.latency for end in ends if end.due >= since and end.status == 200)
    return quantile(found, 0.99) if found else math.inf


def _told(counts: Counter[str] | dict[str, float]) -> str:
    return ", ".join(f"{count:g} x {name}" for name, count in sorted(counts.items())) or "nothing"
