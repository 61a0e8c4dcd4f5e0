"""An open loop: requests come when they are due, whatever became of those before, as they do from many independent users.

A latency begins when the request was due, not when a connection was free to send it: leaving the wait out ("coordinated omission",
Tene 2013; the method is that of his wrk2) would hide the very stalls that are looked for. Due requests are sent in turns of about a
millisecond, the step of the loop's timers, so latencies read up to a millisecond long.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator

from cloud_core.ctl.load.connection import Connection, clock, connect
from cloud_core.ctl.load.count import BROKEN, LATE, Tally
from cloud_core.ctl.load.cpu import Cpu
from cloud_core.ctl.load.plan import SWEEP_S, Plan, Spent, broken, overdue
from cloud_core.ctl.load.response import Response
from cloud_core.decide.capacity import Step

TURN_S = 0.001
Seen = Callable[[float, float, int], None]
"""A request ended: when it was due (seconds after the beginning), its latency from there, and its status (`count`)."""


def even(rate: float, seconds: float, begin: float = 0.0) -> Iterator[float]:
    """When requests are due: `rate` per second at equal distances, from `begin` for `seconds`."""
    return (begin + i / rate for i in range(round(rate * seconds)))


def poisson(rate: float, seconds: float, begin: float = 0.0, *, seed: int = 1) -> Iterator[float]:
    """When requests are due: `rate` per second on average, each independent of the others, the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    due = begin + draw.expovariate(rate)
    while due < begin + seconds:
        yield due
        due += draw.expovariate(rate)


async def open_loop(plan: Plan, rate: float, cpu: Cpu, *, connections: int, is_poisson: bool = False) -> Step:
    """One step: `rate` requests per second for the plan's warm-up and its seconds; those due in the latter are counted.

    `connections`: the most that are opened; what is due while all are busy waits, and its latency runs.
    """
    tally, begin, end = Tally(plan.bound_s), plan.warm_up_s, plan.warm_up_s + plan.seconds
    asked = 0

    def due() -> Iterator[float]:
        nonlocal asked
        for at in (poisson if is_poisson else even)(rate, end):
            asked += at >= begin
            yield at

    def seen(due: float, latency: float, status: int) -> None:
        if due >= begin:
            tally.ended(latency, status)

    loop = OpenLoop(plan, due(), seen, connections=connections)
    spent: Spent | None = None
    cores = (0.0, 0.0)
    try:
        loop.start()
        await loop.watch(begin)
        spent = Spent(cpu)
        await loop.watch(end)
        cores = spent.cores(clock())
        await loop.drain()
    finally:
        await loop.close()
    return tally.step(
        clients=loop.most, rate=rate, seconds=plan.seconds, cpu=cores[0], client_cpu=cores[1], asked=asked
    )


class OpenLoop:
    """Sends what is due and tells `seen` how each request ended; every one ends, at the latest when its patience does."""

    def __init__(self, plan: Plan, due: Iterator[float], seen: Seen, *, connections: int) -> None:
        self.most = 0
        """Connections that were open at once."""
        self._plan = plan
        self._due = due
        self._seen = seen
        self._connections = connections
        self._began = 0.0
        self._next: float | None = None
        # The connection used last is used next: few of them stay warm.
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._waiting: deque[float] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._closing = False

    def start(self) -> None:
        """Begin: what is due after 0 seconds is due now."""
        self._began = clock()
        self._next = next(self._due, None)
        self._turn()

    async def watch(self, until: float) -> None:
        """Wait until `until` seconds after the beginning, and end what takes longer than the patience."""
        while (left := until - self._now()) > 0:
            await asyncio.sleep(min(left, SWEEP_S))
            self._sweep()

    async def drain(self) -> None:
        """Wait until every request that was due has ended."""
        while self._next is not None or self._waiting or self._opening or any(each.busy for each in self._all):
            await asyncio.sleep(SWEEP_S / 10)
            self._sweep()

    async def close(self) -> None:
        """End every connection."""
        self._closing = True
        for task in self._opening:
            task.cancel()
        for connection in tuple(self._all):
            connection.close()
        # Transports end in the loop's next turn.
        await asyncio.sleep(0)

    def _now(self) -> float:
        """Seconds since the beginning, which all times of a request are: a sum and a difference would not give back what was due."""
        return clock() - self._began

    def _turn(self) -> None:
        if self._closing:
            return
        now = self._now()
        at = self._next
        while at is not None and at <= now:
            self._dispatch(at)
            at = next(self._due, None)
        self._next = at
        if at is not None:
            self._loop.call_later(max(TURN_S, at - now), self._turn)

    def _dispatch(self, since: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                self._send(connection, since)
                return
        self._waiting.append(since)
        self._grow()

    def _grow(self) -> None:
        """Open a connection for what waits, if one more is allowed and not on its way."""
        if len(self._all) + len(self._opening) < self._connections and len(self._opening) < len(self._waiting):
            task = self._loop.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        try:
            connection = await connect(self._plan.address, self._ended)
        except OSError:
            if self._waiting:
                since = self._waiting.popleft()
                self._seen(since, self._now() - since, BROKEN)
            return
        self._all.add(connection)
        self.most = max(self.most, len(self._all))
        self._free(connection)

    def _free(self, connection: Connection) -> None:
        if not connection.open:
            self._all.discard(connection)
            self._grow()
            return
        self._give_up(self._now())
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _send(self, connection: Connection, since: float) -> None:
        connection.send(self._plan.requests.next(self._now() - since), since)

    def _ended(self, connection: Connection, response: Response | None) -> None:
        if self._closing:
            return
        now = self._now()
        status = broken(connection, self._plan, now) if response is None else response.status
        self._seen(connection.since, now - connection.since, status)
        self._free(connection)

    def _sweep(self) -> None:
        now = self._now()
        for connection in tuple(self._all):
            if overdue(connection, self._plan, now):
                connection.close()
            elif not connection.open and not connection.busy:
                self._all.discard(connection)
        self._give_up(now)

    def _give_up(self, now: float) -> None:
        """End what waited too long to be sent."""
        most = min(self._plan.send_within_s, self._plan.patience_s)
        while self._waiting and now - self._waiting[0] >= most:
            since = self._waiting.popleft()
            self._seen(since, now - since, LATE)
