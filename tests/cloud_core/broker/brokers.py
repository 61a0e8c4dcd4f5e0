"""Brokers for tests: ours in the test's own loop, or the real Mosquitto, both over the same devices."""

import asyncio
import contextlib
import random
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.broker import mosquitto
from cloud_core.broker.passwords import hash_password
from cloud_core.broker.run import run_broker
from cloud_core.config import Settings
from cloud_core.keys import Keys
from cloud_core.store import devices, tables
from cloud_core.store.database import open_database, read, write
from shared.io.clock import SystemClock
from shared.io.free_ports import find_ports
from shared.io.logs import build
from shared.io.mqtt import Handler, MqttLink, Outcome, Received, Server, Will
from shared.io.program import Program
from shared.io.signing import Signer
from tests.cloud_core.waiting import eventually

KINDS = ("embedded", "mosquitto")
PASSWORD = "device-password"
KEYS = Keys(Signer.from_bytes(b"g" * 32), Signer.from_bytes(b"a" * 32), "service-password")
LOG = build("test", level="error")


@contextlib.asynccontextmanager
async def database(folder: Path, *names: str) -> AsyncIterator[AsyncEngine]:
    """A registry with the enrolled devices `tenant/device`."""
    engine = open_database(f"sqlite+aiosqlite:///{folder}/registry.db")
    async with engine.begin() as connection:
        await connection.run_sync(tables.metadata.create_all)
    for name in names:
        await enrol(engine, name)
    try:
        yield engine
    finally:
        await engine.dispose()


async def enrol(engine: AsyncEngine, name: str) -> None:
    tenant, device = name.split("/")
    async with write(engine) as connection:
        if (
            await connection.execute(sa.select(tables.tenants).where(tables.tenants.c.tenant == tenant))
        ).first() is None:
            await connection.execute(sa.insert(tables.tenants).values(tenant=tenant, created_at=0.0))
        values = {"tenant": tenant, "device": device, "created_at": 0.0, "enrolled_at": 1.0}
        await connection.execute(sa.insert(tables.devices).values(**values, mqtt_password_hash=hash_password(PASSWORD)))


class Site(NamedTuple):
    """A running broker."""

    kind: str
    port: int
    engine: AsyncEngine
    settings: Settings
    folder: Path

    def server(self, name: str, *, password: str | None = None, client_id: str = "", keepalive: int = 15) -> Server:
        own = KEYS.broker_password if name.startswith("cloud-core") else PASSWORD
        return Server("127.0.0.1", self.port, name, own if password is None else password, client_id, keepalive)

    async def refresh(self) -> None:
        """Have Mosquitto know the devices of now; the embedded broker asks the database itself."""
        if self.kind == "mosquitto":
            async with read(self.engine) as connection:
                mosquitto.provision(
                    self.folder, await devices.credentials(connection), service_password=KEYS.broker_password
                )
            assert mosquitto.reload(self.folder / "pid")


@contextlib.asynccontextmanager
async def running(kind: str, folder: Path, engine: AsyncEngine, *, port: int = 0) -> AsyncIterator[Site]:
    """A broker of `kind` until the block ends."""
    starter = _embedded if kind == "embedded" else _mosquitto
    async with starter(folder, engine, port or find_ports("127.0.0.1")) as site:
        yield site


@contextlib.asynccontextmanager
async def _embedded(folder: Path, engine: AsyncEngine, port: int) -> AsyncIterator[Site]:
    settings = Settings(mqtt_port=port, data_dir=str(folder))
    async with program() as running_program:
        await run_broker(settings, engine=engine, keys=KEYS, program=running_program, registry=CollectorRegistry())
        running_program.start()
        yield Site("embedded", port, engine, settings, folder)


@contextlib.asynccontextmanager
async def _mosquitto(folder: Path, engine: AsyncEngine, port: int) -> AsyncIterator[Site]:
    settings = Settings(
        mqtt_port=port,
        data_dir=str(folder),
        mqtt_embedded=False,
        mosquitto_dir=str(folder),
        mosquitto_pid_file=str(folder / "pid"),
    )
    async with read(engine) as connection:
        rows = await devices.credentials(connection)
    mosquitto.provision(folder, rows, service_password=KEYS.broker_password)
    path = mosquitto.write_conf(folder, host="127.0.0.1", port=port, pid_file=str(folder / "pid"))
    (folder / "run.conf").write_text(path.read_text() + "user root\n")
    process = subprocess.Popen(
        ["/usr/sbin/mosquitto", "-c", str(folder / "run.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await eventually(lambda: listens(port))
        yield Site("mosquitto", port, engine, settings, folder)
    finally:
        process.kill()
        process.wait()


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


class RunningProgram(Program):
    """A program that runs beside the test; its crash ends the test."""

    def __init__(self) -> None:
        super().__init__(LOG)
        self.running: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.running = asyncio.create_task(self.run(), name="program")


@contextlib.asynccontextmanager
async def program() -> AsyncIterator[RunningProgram]:
    own = RunningProgram()
    try:
        yield own
    finally:
        own.stopping.set()
        if own.running is not None:
            await own.running


class Client:
    """A link that keeps what it receives; `births` counts connections."""

    def __init__(
        self,
        server: Server,
        *,
        subscribe: tuple[str, ...] = (),
        will: Will | None = None,
        on_connected: Callable[["Client"], Awaitable[None]] | None = None,
        handlers: Mapping[str, Handler] | None = None,
        queue_limit: int = 1000,
    ) -> None:
        self.received: list[Received] = []
        self.counts: dict[tuple[str, Outcome], int] = {}
        self.births = 0
        self.refusal: Exception | None = None
        self._subscribe = subscribe
        self._will = will
        self._announce = on_connected
        rows = ("state", "pressure", "desired", "birth", "death", "reported", "telemetry", "telemetry-ack", "command",
                "command-result", "trust-get", "trust", "chunks-get", "chunks")  # fmt: skip
        self.link = MqttLink(
            server,
            will=self._made_will,
            on_connected=self._on_connected,
            handlers=handlers if handlers is not None else dict.fromkeys(rows, self._keep),
            count=self._count,
            log=LOG,
            clock=SystemClock(),
            draw=random.random,
            queue_limit=queue_limit,
        )

    async def _made_will(self) -> Will | None:
        return self._will

    async def _on_connected(self) -> None:
        try:
            if self._subscribe:
                await self.link.subscribe(*self._subscribe)
            if self._announce is not None:
                await self._announce(self)
        except Exception as error:
            self.refusal = error
            raise
        self.births += 1

    async def _keep(self, message: Received) -> None:
        self.received.append(message)

    def _count(self, kind: str, outcome: Outcome) -> None:
        self.counts[kind, outcome] = self.counts.get((kind, outcome), 0) + 1

    def topics(self) -> list[str]:
        return [message.topic for message in self.received]


@contextlib.asynccontextmanager
async def connected(*clients: Client) -> AsyncIterator[None]:
    """All clients connected until the block ends."""
    running_links = [asyncio.create_task(client.link.run()) for client in clients]
    try:
        async with asyncio.timeout(15):
            for client, task in zip(clients, running_links, strict=True):
                waiting = asyncio.create_task(client.link.wait_connected())
                await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    task.result()
        yield
    finally:
        await asyncio.gather(*(client.link.close() for client in clients))
        await asyncio.gather(*running_links)
