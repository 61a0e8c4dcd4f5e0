"""An integrator on a broker of its own: Mosquitto that takes anybody, and a client that asks and is told."""

import asyncio
import contextlib
import itertools
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiomqtt

from shared.io.free_ports import find_ports
from tests.cloud_core.waiting import wait_for

NAMES = itertools.count()


class OpenBroker:
    """A process; `port` stays over restarts."""

    def __init__(self, folder: Path) -> None:
        self.port = find_ports("127.0.0.1")
        self.conf = folder / "open.conf"
        self.conf.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["/usr/sbin/mosquitto", "-c", str(self.conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(self._listens)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


@contextlib.contextmanager
def open_broker(folder: Path) -> Iterator[OpenBroker]:
    broker = OpenBroker(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


class Integrator:
    """One client; `heard` is every message on its response topics, in order."""

    def __init__(self, client: aiomqtt.Client, name: str, tenant: str, device: str) -> None:
        self.client = client
        self.name = name
        self.root = f"tideline/v1/{tenant}/{device}/infer"
        self.heard: list[dict[str, Any]] = []
        self._news = asyncio.Condition()

    async def listen(self) -> None:
        async for message in self.client.messages:
            assert isinstance(message.payload, bytes)
            async with self._news:
                self.heard.append(json.loads(message.payload))
                self._news.notify_all()

    def envelope(self, body: object, *, id: str, **beside: object) -> dict[str, object]:
        base = {"v": "1.0", "kind": "infer-request", "id": id, "sent_at": 0.0, "client": self.name, "body": body}
        return base | beside

    async def send(self, model: str, payload: bytes, *, retain: bool = False) -> None:
        await self.client.publish(f"{self.root}/{model}/request", payload, qos=1, retain=retain)

    async def ask(self, model: str, body: object, *, id: str, **beside: object) -> dict[str, Any]:
        """The one answer to a request, which comes with its correlation id."""
        await self.send(model, json.dumps(self.envelope(body, id=id, **beside)).encode())
        return await self.told(id)

    async def told(self, id: str) -> dict[str, Any]:
        async with asyncio.timeout(20), self._news:
            while not (found := [each for each in self.heard if each["correlation_id"] == id]):
                await self._news.wait()
        return found[0]


@contextlib.asynccontextmanager
async def integrator(port: int, *, tenant: str = "default", device: str = "edge") -> AsyncIterator[Integrator]:
    name = f"app-{next(NAMES)}"
    no_delay = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    async with aiomqtt.Client("127.0.0.1", port, identifier=name, socket_options=no_delay) as client:
        own = Integrator(client, name, tenant, device)
        await client.subscribe(f"{own.root}/+/response/{name}", qos=1)
        listening = asyncio.create_task(own.listen())
        try:
            yield own
        finally:
            listening.cancel()
            # The broker may have gone first.
            with contextlib.suppress(asyncio.CancelledError, aiomqtt.MqttError):
                await listening
