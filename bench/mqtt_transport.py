"""A 90 MB model to one device that has only MQTT, through Mosquitto and through the embedded broker, on loopback.

Broker, cloud and device are processes of their own. What counts is the time until every chunk is verified and durable.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import sqlalchemy as sa

from bench import rounds
from bench.mqtt_transport_end import AMQTT, DEVICE, MOSQUITTO, PASSWORD, TENANT, settings_of
from bench.result import Result
from cloud_core.broker import mosquitto
from cloud_core.broker.passwords import hash_password
from cloud_core.config import Settings, environment_of
from cloud_core.keys import load_or_create
from cloud_core.models.chunking import pieces
from cloud_core.store import devices, tables
from cloud_core.store.chunk_stores import open_chunks
from cloud_core.store.database import migrate, open_database, read, write
from shared.bundle.manifest import Chunk
from shared.io.free_ports import find_ports

SIZE = 90_000_000
QUICK_SIZE = 3_000_000
HOST = "127.0.0.1"


def run() -> Result:
    """Both brokers in turn."""
    size = QUICK_SIZE if rounds.is_quick() else SIZE
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        ports = {}
        for kind in (MOSQUITTO, AMQTT):
            folder = Path(name) / kind
            folder.mkdir()
            settings = settings_of(folder, kind, find_ports(HOST))
            asyncio.run(_prepare(settings, size))
            stack.enter_context(_broker(settings, kind))
            stack.enter_context(_cloud(settings, kind))
            ports[kind] = settings.mqtt_port
        found = rounds.interleaved((MOSQUITTO, AMQTT), lambda kind: _fetch(Path(name) / kind, kind, ports[kind], size))
    intervals = {f"{kind}_mb_per_s": rounds.of(values) for kind, values in found.items()}
    return Result(
        name="mqtt_transport",
        metrics={name: each.median for name, each in intervals.items()},
        intervals=intervals,
        goals={f"{MOSQUITTO}_mb_per_s": (">=", 5.0)},
        notes=(f"{size / 1e6:g} MB that cannot be packed, to one device; broker, cloud and device share this machine",),
    )


async def _prepare(settings: Settings, size: int) -> None:
    """A registry with one device, and a tenant's chunks."""
    folder = settings.data
    await migrate(settings.database_url)
    engine = open_database(settings.database_url)
    async with write(engine) as connection:
        await connection.execute(sa.insert(tables.tenants).values(tenant=TENANT, created_at=0.0))
        row = {"tenant": TENANT, "device": DEVICE, "created_at": 0.0, "enrolled_at": 1.0}
        await connection.execute(sa.insert(tables.devices).values(**row, mqtt_password_hash=hash_password(PASSWORD)))
    keys = load_or_create(settings.secrets)
    async with read(engine) as connection:
        rows = await devices.credentials(connection)
    await engine.dispose()
    mosquitto.provision(folder, rows, service_password=keys.broker_password)
    model = folder / "model.bin"
    model.write_bytes(random.Random(1).randbytes(size))
    store, chunks = open_chunks(settings.chunk_store, settings.artifacts)(TENANT), []
    for piece in pieces(model):
        digest = hashlib.sha256(piece).hexdigest()
        store.put(digest, piece)
        chunks.append(Chunk(digest, len(piece)))
    (folder / "chunks.json").write_bytes(msgspec.json.encode(chunks))


@contextlib.contextmanager
def _broker(settings: Settings, kind: str) -> Iterator[None]:
    if kind == MOSQUITTO:
        conf = mosquitto.write_conf(settings.data, host=HOST, port=settings.mqtt_port)
        # Started as root it would give up root, and could no longer read what is ours alone.
        conf.write_text(conf.read_text() + "user root\n")
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            raise RuntimeError("mosquitto is not installed")
        command = [program, "-c", str(conf)]
    else:
        command = [sys.executable, "-m", "cloud_core", "serve", "--role", "broker"]
    with subprocess.Popen(
        command, env=environment_of(settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_for(settings.mqtt_port, process)
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def _cloud(settings: Settings, kind: str) -> Iterator[None]:
    command = [
        sys.executable,
        "-m",
        "bench.mqtt_transport_end",
        "cloud",
        str(settings.data),
        kind,
        str(settings.mqtt_port),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None or process.stdout.readline().strip() != "ready":
            raise RuntimeError("the cloud's end did not start")
        yield


def _fetch(folder: Path, kind: str, port: int, size: int) -> float:
    """MB per second of one fetch into a new store."""
    store = folder / "device"
    command = [sys.executable, "-m", "bench.mqtt_transport_end", "device", str(folder), kind, str(port), str(store)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    shutil.rmtree(store)
    return size / 1e6 / float(said)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError("the broker did not start")
