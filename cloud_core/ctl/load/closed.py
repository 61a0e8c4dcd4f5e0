"""A closed loop: each client sends its next request when the one before has ended. The load follows the server's own speed.

A client that is refused (429) waits as long as the answer asks for, at most `BACK_S`, before it comes again.
"""

import asyncio

from cloud_core.ctl.load.connection import Connection, clock, connect
from cloud_core.ctl.load.count import BROKEN, Tally
from cloud_core.ctl.load.cpu import Cpu
from cloud_core.ctl.load.plan import SWEEP_S, Plan, Spent, broken, overdue
from cloud_core.ctl.load.response import Response
from cloud_core.decide.capacity import Step
from shared.protocol.errors import Transient, Unavailable

BACK_S = 1.0
AT_ONCE = 64
"""Connections that are opened at a time: a server's backlog is short."""


async def closed_loop(plan: Plan, clients: int, cpu: Cpu, *, to_the_end: bool = False) -> Step:
    """One step: `clients` clients for the plan's warm-up and then its seconds, in which requests that end are counted.

    What is under way then is waited for, so that a server that goes on with what nobody wants is through with it before the next step.
    `to_the_end`: count it too, and the time it takes; a server whose answers take seconds has few of them in a short span.

    Raises:
        Transient: not all clients could connect.

    """
    loop = _Closed(plan)
    try:
        await loop.connect(clients)
        loop.start()
        await loop.watch(plan.warm_up_s)
        tally, spent = Tally(plan.bound_s), Spent(cpu)
        loop.tally = tally
        await loop.watch(plan.seconds)
        if to_the_end:
            await loop.drain()
        loop.tally = None
        until = clock()
        server, client = spent.cores(until)
        await loop.drain()
    finally:
        await loop.close()
    return tally.step(clients=clients, seconds=until - spent.began, cpu=server, client_cpu=client, asked=tally.ends)


class _Closed:
    """The clients of one step. `tally`: where ends are counted, while they are."""

    def __init__(self, plan: Plan) -> None:
        self.tally: Tally | None = None
        self._plan = plan
        self._connections: set[Connection] = set()
        self._anew: set[asyncio.Task[None]] = set()
        self._sending = True
        self._closing = False
        self._loop = asyncio.get_running_loop()

    async def connect(self, clients: int) -> None:
        for first in range(0, clients, AT_ONCE):
            count = min(AT_ONCE, clients - first)
            made = [connect(self._plan.address, self._ended) for _ in range(count)]
            found = await asyncio.gather(*made, return_exceptions=True)
            self._connections.update(each for each in found if isinstance(each, Connection))
            for error in found:
                if isinstance(error, OSError):
                    raise Transient(
                        f"only {len(self._connections)} of {clients} clients could connect: {error or 'no answer'}",
                        why=Unavailable.UNREACHABLE,
                    ) from error
                if isinstance(error, BaseException):
                    raise error

    def start(self) -> None:
        for connection in self._connections:
            self._next(connection)

    async def watch(self, seconds: float) -> None:
        """Wait, and end what takes longer than the patience."""
        end = clock() + seconds
        while (left := end - clock()) > 0:
            await asyncio.sleep(min(left, SWEEP_S))
            self._sweep()

    async def drain(self) -> None:
        """Send nothing more, and wait for what is under way."""
        self._sending = False
        while any(connection.busy for connection in self._connections):
            await asyncio.sleep(SWEEP_S / 10)
            self._sweep()

    async def close(self) -> None:
        self._sending, self._closing = False, True
        for task in self._anew:
            task.cancel()
        for connection in tuple(self._connections):
            connection.close()
        # Transports end in the loop's next turn.
        await asyncio.sleep(0)

    def _sweep(self) -> None:
        now = clock()
        for connection in tuple(self._connections):
            if overdue(connection, self._plan, now):
                connection.close()

    def _next(self, connection: Connection) -> None:
        if not self._sending:
            return
        if connection.open:
            connection.send(self._plan.requests.next(), clock())
        else:
            self._again(connection)

    def _ended(self, connection: Connection, response: Response | None) -> None:
        if self._closing:
            return
        now = clock()
        if self.tally is not None:
            status = broken(connection, self._plan, now) if response is None else response.status
            self.tally.ended(now - connection.since, status)
        if not self._sending:
            return
        if not connection.open:
            self._again(connection)
        elif response is not None and response.status == 429:
            self._loop.call_later(min(response.retry_after or 0.0, BACK_S), self._next, connection)
        else:
            self._next(connection)

    def _again(self, connection: Connection) -> None:
        """The client goes on over a new connection."""
        self._connections.discard(connection)
        task = self._loop.create_task(self._reconnect())
        self._anew.add(task)
        task.add_done_callback(self._anew.discard)

    async def _reconnect(self) -> None:
        while True:
            try:
                connection = await connect(self._plan.address, self._ended)
            except OSError:
                if self.tally is not None:
                    self.tally.ended(0.0, BROKEN)
                await asyncio.sleep(SWEEP_S)
            else:
                self._connections.add(connection)
                self._next(connection)
                return
