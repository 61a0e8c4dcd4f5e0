"""`python -m bench.mqtt_transport_end cloud|device FOLDER KIND PORT ...`: one end of content over MQTT, a process of its own.

The cloud says `ready` and serves until its input ends. The device (`... device FOLDER KIND PORT STORE`) fetches what `chunks.json`
lists into a new store, each chunk verified and durable, and says how many seconds that took.
"""

import asyncio
import random
import sys
import time
import uuid
from pathlib import Path

import msgspec
import uvloop
from prometheus_client import CollectorRegistry

from cloud_core.api.content_desk import ContentDesk
from cloud_core.api.content_link import content_link
from cloud_core.config import Settings
from cloud_core.keys import load_or_create
from cloud_core.store.chunk_stores import open_chunks
from cloud_core.store.database import Connection, open_database
from edge_agent.control.fetch import Fetcher
from edge_agent.control.fetch_mqtt import MqttSource
from shared.bundle.manifest import Chunk
from shared.bundle.store import ChunkStore
from shared.io.clock import SystemClock
from shared.io.logs import build
from shared.io.mqtt import MqttLink, Received, Server, Will
from shared.protocol import content
from shared.protocol.content import Get
from shared.protocol.envelope import seal
from shared.protocol.topics import topic

TENANT, DEVICE, PASSWORD = "bench", "edge-1", "a-password-for-a-bench"
MOSQUITTO, AMQTT = "mosquitto", "amqtt"


def settings_of(folder: Path, kind: str, port: int) -> Settings:
    """The control plane's, on a broker of `kind`."""
    return Settings(
        data_dir=str(folder),
        database_url=f"sqlite+aiosqlite:///{folder}/registry.db",
        mqtt_port=port,
        mqtt_embedded=kind == AMQTT,
        log_level="error",
    )


async def cloud(settings: Settings) -> None:
    """What the API process runs for devices that have only MQTT."""
    engine, log, clock = open_database(settings.database_url), build("bench", level="error"), SystemClock()

    async def no_metadata(_connection: Connection, _tenant: str, _name: str) -> bytes | None:
        return None

    desk = ContentDesk(
        engine,
        open_chunks(settings.chunk_store, settings.artifacts),
        no_metadata,
        bytes_per_s=settings.mqtt_device_bytes_per_s,
        part_bytes=settings.mqtt_part_bytes,
        clock=clock,
        log=log,
        registry=CollectorRegistry(),
    )
    link = content_link(settings, load_or_create(settings.secrets), desk, clock=clock, log=log)
    tasks = [asyncio.create_task(link.run()), asyncio.create_task(desk.run(link.publish))]
    await link.wait_connected()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await link.close()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await engine.dispose()


async def device(settings: Settings, store: Path) -> None:
    """Fetches once."""
    clock, log = SystemClock(), build("bench", level="error")

    async def send(row: str, get: Get) -> None:
        payload = seal(row, get, id=str(uuid.uuid4()), now=clock.wall())
        await link.publish(topic(row, tenant=TENANT, device=DEVICE), payload)

    async def no_will() -> Will | None:
        return None

    async def connected() -> None:
        filters = [topic(row, tenant=TENANT, device=DEVICE, free=("+",)) for row in content.KINDS.values()]
        await link.subscribe(*filters, qos=0)

    async def echo(_message: Received) -> None:
        """Our own request."""

    source = MqttSource(send, clock=clock, log=log)
    link = MqttLink(
        Server(settings.mqtt_host, settings.mqtt_port, f"{TENANT}/{DEVICE}", PASSWORD),
        will=no_will,
        on_connected=connected,
        handlers=dict.fromkeys(content.KINDS.values(), source.received) | dict.fromkeys(content.KINDS, echo),
        count=lambda *_: None,
        log=log,
        clock=clock,
        draw=random.random,
    )
    tasks = [asyncio.create_task(link.run()), asyncio.create_task(source.run())]
    await link.wait_connected()
    chunks = msgspec.json.decode((settings.data / "chunks.json").read_bytes(), type=list[Chunk])
    began = time.perf_counter()
    await Fetcher(source, clock=clock).chunks(chunks, ChunkStore(store))
    print(time.perf_counter() - began, flush=True)
    await link.close()
    tasks[1].cancel()
    await asyncio.wait(tasks)


if __name__ == "__main__":
    _, role, folder, kind, port, *rest = sys.argv
    own = settings_of(Path(folder), kind, int(port))
    uvloop.run(cloud(own) if role == "cloud" else device(own, Path(rest[0])))
