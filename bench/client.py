"""The load client: whole HTTP/1.1 requests over kept connections, on a bare asyncio protocol, in a process of its own.

`measure(Load)` runs `python -m bench.client`, which takes the load as msgpack on standard input and gives what it measured on
standard output. Closed loop: each of `connections` sends its next request when its answer is there. It costs about 20 us of CPU a
request, and tells how much it took itself, since it shares the cores with the server. (For a fixed rate: `fleetctl load --rate`.)

Not aiohttp's client: that takes more CPU for a request than the servers measured here.
"""

import asyncio
import contextlib
import gc
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import cast

import msgspec
import psutil
import uvloop

_LATE_S = 10.0
"""How long answers are waited for after the end, so that a server has nothing left to do when the next measurement begins."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. `requests` are whole ones, head and body (`request`), sent in turn by all connections.

    seconds: how long is measured, after `warm` seconds that are not.
    count: end after this many answers where that comes first.
    pids: roots of the server's process trees; their CPU is read at both ends of the measured time.
    """

    requests: tuple[bytes, ...]
    connections: int = 1
    port: int = 0
    uds: str = ""
    seconds: float = 3.0
    warm: float = 0.5
    count: int = 0
    pids: tuple[int, ...] = ()


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies in milliseconds, of answers with status 200; CPU in seconds. `errors` by status, or what happened instead."""

    answers: int
    seconds: float
    mean: float
    p50: float
    p95: float
    p99: float
    errors: dict[str, int]
    client_cpu: float
    server_cpu: float

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return self.answers / self.seconds


def request(path: str, body: bytes, *, headers: dict[str, str] | None = None, kind: str = "application/json") -> bytes:
    """A whole POST request."""
    lines = {"Host": "localhost", "Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
    return "".join([f"POST {path} HTTP/1.1\r\n", *(f"{k}: {v}\r\n" for k, v in lines.items()), "\r\n"]).encode() + body


def measure(load: Load) -> Measured:
    """Run the client and wait for it.

    Raises:
        RuntimeError: it could not be run, as where the server refuses connections; says what it said.

    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.client"],
        input=msgspec.msgpack.encode(load),
        capture_output=True,
        timeout=load.warm + load.seconds + _LATE_S + 60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the load client failed: {done.stderr.decode(errors='replace')[-500:]}")
    return msgspec.msgpack.decode(done.stdout, type=Measured)


def cpu_of(pids: Sequence[int]) -> float:
    """CPU seconds taken so far by these processes and all that descend from them."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for each in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = each.cpu_times()
                    total += times.user + times.system
    return total


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all are not above; NaN of nothing."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


class _Run:
    """One load in progress: whose turn it is, and what was counted."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.latencies: list[float] = []
        self.errors: dict[str, int] = {}
        self.counting = False
        self.over = asyncio.Event()
        self.sending = True
        self.under_way = 0
        self.drained = asyncio.Event()
        self._turn = 0

    def next(self, connection: "_Connection") -> None:
        """This connection is free."""
        if self.sending:
            self._send(connection, time.perf_counter())

    def answered(self, status: int, since: float) -> None:
        """An answer is whole."""
        self._settle()
        if not self.counting:
            return
        if status == 200:
            self.latencies.append(time.perf_counter() - since)
            if len(self.latencies) == self.load.count:
                self.over.set()
        else:
            self.failed(str(status))

    def lost(self, what: str) -> None:
        """An answer will not come."""
        self._settle()
        self.failed(what)

    def failed(self, what: str) -> None:
        """An answer did not come, or was none."""
        if self.counting:
            self.errors[what] = self.errors.get(what, 0) + 1

    async def drain(self) -> None:
        """Send nothing more, and wait for what is under way, but not for ever."""
        self.sending = False
        if self.under_way:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.drained.wait(), _LATE_S)

    def gone(self, connection: "_Connection") -> None:
        """A connection was closed: another takes its place."""
        if self.sending:
            connection.again = asyncio.ensure_future(self.connect())

    async def connect(self) -> None:
        """One more connection, at work from now on."""
        loop = asyncio.get_running_loop()
        try:
            if self.load.uds:
                await loop.create_unix_connection(lambda: _Connection(self), self.load.uds)
            else:
                await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.load.port)
        except OSError as error:
            self.failed(type(error).__name__)
            if not self.latencies:
                raise
            await asyncio.sleep(0.05)
            if self.sending:
                await self.connect()

    def _settle(self) -> None:
        self.under_way -= 1
        if not self.under_way and not self.sending:
            self.drained.set()

    def _send(self, connection: "_Connection", since: float) -> None:
        self.under_way += 1
        self._turn = (self._turn + 1) % len(self.load.requests)
        connection.send(self.load.requests[self._turn], since)


class _Connection(asyncio.Protocol):
    """One kept connection: at most one request under way."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._transport: asyncio.WriteTransport
        self._received = b""
        self._since: float | None = None
        self.again: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._run.next(self)

    def send(self, data: bytes, since: float) -> None:
        self._since = since
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        whole = _whole(self._received)
        if whole and self._since is not None:
            self._done(whole)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._since is not None:
            # A body without a length ends with its connection.
            if (
                self._received.startswith(b"HTTP/1.")
                and b"\r\n\r\n" in self._received
                and not _has_length(self._received)
            ):
                self._run.answered(int(self._received[9:12]), self._since)
            else:
                self._run.lost(type(exc).__name__ if exc else "closed")
        self._run.gone(self)

    def _done(self, status: int) -> None:
        since, closes = self._since, b"\r\nconnection: close" in self._received[:1024].lower()
        self._received, self._since = b"", None
        if since is not None:
            self._run.answered(status, since)
        if closes:
            self._transport.close()
        else:
            self._run.next(self)


def _whole(data: bytes) -> int:
    """The status of the answer if all of it is there, else 0."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return 0
    head = data[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        stop = head.find(b"\r\n", at + 2)
        length = int(head[at + 17 : stop if stop >= 0 else end])
        return int(data[9:12]) if len(data) >= end + 4 + length else 0
    if b"\r\ntransfer-encoding: chunked" in head:
        return int(data[9:12]) if data.endswith(b"0\r\n\r\n") else 0
    return 0


def _has_length(data: bytes) -> bool:
    head = data[: data.find(b"\r\n\r\n")].lower()
    return b"\r\ncontent-length:" in head or b"\r\ntransfer-encoding: chunked" in head


async def _run(load: Load) -> Measured:
    run = _Run(load)
    await asyncio.gather(*(run.connect() for _ in range(load.connections)))
    await asyncio.sleep(load.warm)
    server, own, began = cpu_of(load.pids), time.process_time(), time.perf_counter()
    run.counting = True
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(run.over.wait(), load.seconds)
    run.counting = False
    seconds, own_after = time.perf_counter() - began, time.process_time()
    server_after = cpu_of(load.pids)
    await run.drain()
    ordered = sorted(each * 1e3 for each in run.latencies)
    return Measured(
        answers=len(ordered),
        seconds=seconds,
        mean=sum(ordered) / len(ordered) if ordered else math.nan,
        p50=quantile(ordered, 0.5),
        p95=quantile(ordered, 0.95),
        p99=quantile(ordered, 0.99),
        errors=run.errors,
        client_cpu=own_after - own,
        server_cpu=server_after - server,
    )


if __name__ == "__main__":
    # A collection would look like a slow answer, and there are no cycles to collect.
    gc.disable()
    uvloop.install()
    found = asyncio.run(_run(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Load)))
    sys.stdout.buffer.write(msgspec.msgpack.encode(found))
