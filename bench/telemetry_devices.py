"""Many devices' telemetry from one process: `python -m bench.telemetry_devices PORT DEVICES RATE SECONDS`, and JSON on stdout.

An open loop: batches leave when they are due, whatever became of those before. The lag of a batch is from its leaving until the
acknowledgement of it has come back, which the cloud sends after its commit.
"""

import asyncio
import contextlib
import json
import math
import random
import sys
import time
import uuid
from collections import deque

import structlog

from shared.io.clock import SystemClock
from shared.io.deflate import deflated
from shared.io.mqtt import MqttLink, Outcome, Received, Server
from shared.protocol import telemetry as wire
from shared.protocol.envelope import body_of, seal, unseal
from shared.protocol.errors import Transient
from shared.protocol.telemetry import Ack, Batch, Host, RequestCount, Sample, histogram_of
from shared.protocol.topics import everyone, topic

LINKS = 4
TENANT = "bench"
PATIENCE_S = 20.0
HOST = Host(cpu=0.2, memory=0.4, disk_free_bytes=10**10, agent_memory_bytes=2 * 10**8)


class Devices:
    """Owner of what was sent and is not acknowledged."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._sent: dict[str, deque[tuple[int, float]]] = {f"d{number}": deque() for number in range(count)}
        self._owed = 0
        self.settled = asyncio.Event()
        """Set while everything that was sent is acknowledged."""
        self.lags: list[float] = []
        self.failed = 0
        self._seqs = [0] * count
        self._epoch = int(time.time() * 1000)
        draws = random.Random(1)
        self._latency = histogram_of([draws.lognormvariate(-4.0, 0.5) for _ in range(20)])

    def next(self, number: int) -> tuple[str, bytes, tuple[str, int]]:
        """The next batch of device `number`: topic, payload, and what its acknowledgement will name."""
        self._seqs[number] += 1
        now, seq, name = time.time(), self._seqs[number], f"d{number}"
        ended = RequestCount(
            model="bench", version="1.0.0", where="local", outcome="ok", reason="mode", count=20, latency=self._latency
        )
        sample = Sample(seq=seq, started_at=now - 10.0, ended_at=now, host=HOST, requests=(ended,))
        payload = deflated(seal(wire.KIND, Batch(epoch=self._epoch, samples=(sample,)), id=str(uuid.uuid4()), now=now))
        return topic("telemetry", tenant=TENANT, device=name), payload, (name, seq)

    def left(self, name: str, seq: int) -> None:
        """A batch leaves."""
        self._sent[name].append((seq, time.monotonic()))
        self._owed += 1
        self.settled.clear()

    async def acknowledged(self, message: Received) -> None:
        """The cloud has everything of this device up to a seq."""
        ack = body_of(unseal(message.payload), wire.ACK, Ack)
        waiting = self._sent[message.where.device or ""]
        while waiting and waiting[0][0] <= ack.seq:
            self.lags.append(time.monotonic() - waiting.popleft()[1])
            self._owed -= 1
        if self._owed == 0:
            self.settled.set()


async def main(port: int, count: int, rate: float, seconds: float) -> None:
    """Send, wait for what is still owed, and say what became of it."""
    devices = Devices(count)
    links = [_link(port, n, devices) for n in range(LINKS)]
    async with asyncio.TaskGroup() as group:
        for link in links:
            group.create_task(link.run())
        await asyncio.gather(*(link.wait_connected() for link in links))
        began, number, sending = time.monotonic(), 0, set[asyncio.Task[None]]()
        while (passed := time.monotonic() - began) < seconds:
            while number < passed * rate:
                task = asyncio.create_task(_send(links[number % LINKS], devices, number % count))
                sending.add(task)
                task.add_done_callback(sending.discard)
                number += 1
            await asyncio.sleep(0.01)
        await asyncio.gather(*sending)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await devices.settled.wait()
        took = time.monotonic() - began
        await asyncio.gather(*(link.close() for link in links))
    lags = sorted(devices.lags)
    found = {
        "sent": number,
        "failed": devices.failed,
        "acknowledged": len(lags),
        "per_second": len(lags) / took,
        "lag_p50_s": _quantile(lags, 0.5),
        "lag_p99_s": _quantile(lags, 0.99),
    }
    sys.stdout.write(json.dumps(found) + "\n")


async def _send(link: MqttLink, devices: Devices, number: int) -> None:
    where, payload, key = devices.next(number)
    devices.left(*key)
    try:
        await link.publish(where, payload)
    except Transient:
        devices.failed += 1


def _link(port: int, number: int, devices: Devices) -> MqttLink:
    async def connected() -> None:
        if number == 0:
            await link.subscribe(everyone("telemetry-ack"))

    async def no_will() -> None:
        return None

    def count(_kind: str, _outcome: Outcome) -> None:
        return None

    link = MqttLink(
        Server("127.0.0.1", port, f"bench-{number}", "", f"bench-{number}", 30),
        will=no_will,
        on_connected=connected,
        handlers={"telemetry-ack": devices.acknowledged},
        count=count,
        log=structlog.wrap_logger(structlog.PrintLogger(sys.stderr)),
        clock=SystemClock(),
        draw=random.SystemRandom().random,
        queue_limit=20_000,
    )
    return link


def _quantile(values: list[float], q: float) -> float:
    return values[max(1, math.ceil(q * len(values))) - 1] if values else math.nan


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
