"""Telemetry through Mosquitto into the registry, by one process of loops; and how soon a day's P99 of a group is told.

The loops (link, ingest, rollup) run in this process, the devices in another. SQLite lies in a temporary folder; PostgreSQL is
measured where `BENCH_POSTGRES_URL` names an empty database (`postgresql+asyncpg://...`).
"""

import asyncio
import contextlib
import gc
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import sqlalchemy as sa
import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.result import Goal, Result
from bench.rounds import is_quick
from bench.telemetry_devices import TENANT
from cloud_core.decide.ranges import cover
from cloud_core.decide.rollup import Cell, Gauge, Key
from cloud_core.loops.fleet_metrics import FleetMetrics
from cloud_core.loops.ingest import Ingest
from cloud_core.loops.metrics import LoopMetrics
from cloud_core.loops.rollup import Rollup
from cloud_core.loops.state import CloudLink
from cloud_core.store import groups, history, tables, tenants
from cloud_core.store.database import migrate, open_database, read, unmigrate, write
from cloud_core.store.history import GROUP, KEPT_S, Place, Selector
from shared.io.clock import SystemClock
from shared.io.free_ports import find_ports
from shared.io.mqtt import Server
from shared.io.signing import Signer
from shared.protocol.telemetry import histogram_of, quantile

SIZES = (1_000, 5_000, 10_000)
RATE = 2_200.0
"""Batches each second: what the goal asks for, and a tenth."""
SECONDS = 30.0
GROUP_OF = 1_000
DAY_S = 86_400


def run() -> Result:
    """Every size into every database, then the query."""
    metrics: dict[str, float] = {}
    goals: dict[str, Goal] = {}
    notes: list[str] = []
    sizes = (20,) if is_quick() else SIZES
    with tempfile.TemporaryDirectory() as folder:
        urls = {"sqlite": f"sqlite+aiosqlite:///{folder}/registry.db"}
        if "BENCH_POSTGRES_URL" in os.environ:
            urls["postgresql"] = os.environ["BENCH_POSTGRES_URL"]
        else:
            notes.append("PostgreSQL was not measured: BENCH_POSTGRES_URL names none")
        for kind, url in urls.items():
            for size in sizes:
                for name, value in asyncio.run(_measured(url, Path(folder), size)).items():
                    metrics[f"{kind}_{size}_{name}"] = value
                goals[f"{kind}_{size}_batches_per_s"] = (">=", 2000.0)
                goals[f"{kind}_{size}_lag_p99_s"] = ("<=", 2.0)
                goals[f"{kind}_{size}_memory_growth"] = ("<=", 1.1)
            metrics[f"{kind}_day_p99_of_{GROUP_OF}_ms"] = asyncio.run(_day_p99(url)) * 1000.0
            goals[f"{kind}_day_p99_of_{GROUP_OF}_ms"] = ("<=", 200.0)
    return Result(name="telemetry_ingest", metrics=metrics, goals=goals, notes=tuple(notes))


async def _measured(url: str, folder: Path, size: int) -> dict[str, float]:
    async with _registry(url, size) as engine:
        with _mosquitto(folder) as port:
            return await _through(engine, port, size)


async def _through(engine: AsyncEngine, port: int, size: int) -> dict[str, float]:
    log, clock, registry = structlog.wrap_logger(structlog.PrintLogger(sys.stderr)), SystemClock(), CollectorRegistry()
    fleet, turn = FleetMetrics(registry), asyncio.Lock()
    ingest = Ingest(
        engine,
        Signer.generate(),
        turn=turn,
        applied=lambda *_: None,
        metrics=LoopMetrics(registry),
        fleet=fleet,
        clock=clock,
        log=log,
    )
    rollup = Rollup(engine, turn=turn, metrics=fleet, clock=clock, log=log)
    link = CloudLink(
        Server("127.0.0.1", port, "cloud-core/loops", "", "cloud-core/loops", 30),
        engine=engine,
        handlers=ingest.handlers,
        connected=lambda: None,
        count=lambda *_: None,
        clock=clock,
        log=log,
        draw=random.SystemRandom().random,
    )
    seconds = 1.0 if is_quick() else SECONDS
    rate = 100.0 if is_quick() else RATE
    tasks = [asyncio.create_task(each) for each in (link.run(), ingest.run(link.publish_all), rollup.run())]
    try:
        await link.wait_connected()
        await _devices(port, size, rate, seconds / 3, log=sys.stderr)  # warm: caches, pages, plans
        before = _resident()
        found = await _devices(port, size, rate, seconds, log=sys.stderr)
    finally:
        await link.close()
        async with turn:  # nobody is cut off while it writes: SQLite would stay locked for whoever comes next
            for task in tasks[1:]:
                task.cancel()
        await asyncio.wait(tasks)
    return {
        "batches_per_s": found["per_second"],
        "lag_p50_s": found["lag_p50_s"],
        "lag_p99_s": found["lag_p99_s"],
        "lost": found["sent"] - found["acknowledged"],
        "memory_growth": _resident() / before,
    }


async def _devices(port: int, size: int, rate: float, seconds: float, *, log: object) -> dict[str, float]:
    command = (sys.executable, "-m", "bench.telemetry_devices", str(port), str(size), str(rate), str(seconds))
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=log)  # type: ignore[arg-type]
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the devices ended with {process.returncode}")
    found: dict[str, float] = json.loads(said)
    return found


async def _day_p99(url: str) -> float:
    """Seconds until a day's P99 of a group is known, from history as a day of its devices leaves it: the median of some."""
    draws = random.Random(2)
    async with _registry(url, 1) as engine:
        end = int(time.time()) // 10 * 10
        start = end - (7200 if is_quick() else DAY_S)
        for seconds in history.KEPT_S:
            cells = {
                Place(TENANT, GROUP, "all", at, Key("bench", version, place)): Cell(
                    counts={"requests": 2000},
                    histograms={
                        name: histogram_of([draws.lognormvariate(-4.0, 1.0) for _ in range(300)])
                        for name in ("latency", "queue", "compute")
                    },
                    gauges={"cpu": Gauge(count=1, sum=1.0, least=1.0, most=1.0)},
                )
                for at in range(start // seconds * seconds, end, max(seconds, 60))
                for version in ("1.0.0", "1.1.0")
                for place in ("local", "cloud")
            }
            async with write(engine) as connection:
                await history.put(connection, seconds, cells)
        took = []
        for _ in range(2 if is_quick() else 21):
            began = time.perf_counter()
            async with read(engine) as connection:
                spans = cover(
                    start + 25, end - 15, kept_from={each: time.time() - kept for each, kept in KEPT_S.items()}
                )
                selector = Selector(TENANT, GROUP, ["all"], model="bench")
                found = await history.read(connection, selector, spans)
            (cell,) = history.summed(found, lambda one: one.key.model).values()
            if quantile(cell.histograms["latency"], 0.99) is None:
                raise RuntimeError("history says nothing")
            took.append(time.perf_counter() - began)
    return sorted(took)[len(took) // 2]


@contextlib.asynccontextmanager
async def _registry(url: str, size: int) -> AsyncIterator[AsyncEngine]:
    """An empty registry with so many devices, all in one group."""
    await migrate(url)
    engine = open_database(url)
    try:
        async with write(engine) as connection:
            await tenants.create(connection, TENANT, now=1.0)
            await groups.create(connection, TENANT, "all", description="", now=1.0)
            names = [f"d{n}" for n in range(size)]
            made = [
                {"tenant": TENANT, "device": name, "description": "", "revision": 1, "created_at": 1.0}
                for name in names
            ]
            await connection.execute(sa.insert(tables.devices), made)
            members = [{"tenant": TENANT, "group": "all", "device": name} for name in names]
            await connection.execute(sa.insert(tables.group_members), members)
        yield engine
    finally:
        await engine.dispose()
        await unmigrate(url)


@contextlib.contextmanager
def _mosquitto(folder: Path) -> Iterator[int]:
    """A Mosquitto that lets anybody in, on loopback, until the block ends."""
    port = find_ports("127.0.0.1")
    conf = folder / "mosquitto.conf"
    conf.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 1000\nset_tcp_nodelay true\n"
    )
    program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        raise RuntimeError("mosquitto is not installed: tests/install_system.sh installs it")
    process = subprocess.Popen([program, "-c", str(conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10.0
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
                break
            if time.monotonic() > deadline:
                raise RuntimeError("mosquitto does not listen")
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def _resident() -> float:
    gc.collect()
    return float(psutil.Process().memory_info().rss)
