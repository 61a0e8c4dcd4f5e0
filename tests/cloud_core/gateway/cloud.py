"""A gateway and replicas in one process: real HTTP between them, a real database, real ONNX models."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.config import Settings
from cloud_core.gateway.run import run_gateway
from cloud_core.keys import Keys, load_or_create
from cloud_core.replicas.local import LocalReplica, Place, Preference
from cloud_core.replicas.server import build_replica
from cloud_core.store import assignments, commands, groups, models, versions
from cloud_core.store.chunk_stores import open_chunks
from cloud_core.store.database import open_database, write
from shared.bundle.manifest import Manifest, canonical, digest_of
from shared.bundle.store import ChunkStore
from shared.io.clock import SystemClock
from shared.io.free_ports import find_ports
from shared.io.program import Program
from shared.io.web import Site
from shared.protocol.desired import Limits
from shared.serving.answer import Where
from shared.serving.arrangement import Arrangement
from shared.serving.engine import Engine
from shared.serving.metrics import EngineMetrics
from tests.shared.serving.bundles import log_sink

CLOCK = SystemClock()


class Registry:
    """The database and the artifacts, and what publishing does to them."""

    def __init__(self, engine: AsyncEngine, settings: Settings, keys: Keys) -> None:
        self.engine = engine
        self.settings = settings
        self.keys = keys

    async def publish(self, manifest: Manifest, folder: Path, *, tenant: str = "default", chunks: bool = True) -> None:
        if chunks:
            self.store(folder, tenant)
        data = canonical(manifest)
        async with write(self.engine) as connection:
            await models.create(connection, tenant, manifest.name, description="", now=CLOCK.wall())
            assert await versions.publish(
                connection,
                tenant,
                model=manifest.name,
                version=manifest.version,
                digest=digest_of(data),
                manifest=data.decode(),
                published_by="test",
                now=CLOCK.wall(),
            )

    def store(self, folder: Path, tenant: str = "default") -> None:
        store = ChunkStore(self.settings.artifacts / tenant)
        for path in folder.iterdir():
            data = path.read_bytes()
            store.put(hashlib.sha256(data).hexdigest(), data)

    async def delete(self, model: str, version: str) -> None:
        async with write(self.engine) as connection:
            assert await versions.delete(connection, "default", model, version, now=CLOCK.wall())

    async def assign(self, model: str, version: str) -> None:
        async with write(self.engine) as connection:
            await groups.create(connection, "default", "all", description="", now=CLOCK.wall())
            await assignments.put(
                connection,
                "default",
                "all",
                models=[assignments.Wanted(name=model, version=version)],
                policy=None,
                limits=Limits(),
                priority=0,
                now=CLOCK.wall(),
            )

    async def token(self, role: str, tenant: str = "default") -> str:
        now = CLOCK.wall()
        if tenant != "default":
            await commands.add_user(
                self.engine, tenant=tenant, name="somebody", role="viewer", password="a password 123", now=now
            )
        return await commands.create_token(
            self.engine, tenant=tenant, name=f"a-{role}", role=role, valid_s=None, now=now
        )


class InProcessReplica:
    """A replica on this loop; `crash` ends it without a word."""

    def __init__(self, registry: Registry, name: str, *, arrangement: Arrangement | None = None) -> None:
        self.registry = registry
        self.name = name
        self.arrangement = arrangement or Arrangement()
        self.site = Site(cancel_on_disconnect=True)
        self.log, self.lines = log_sink()
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> "InProcessReplica":
        metrics = CollectorRegistry()
        self.engine = Engine(clock=CLOCK, log=self.log, metrics=EngineMetrics(metrics), where=Where.CLOUD)
        folder = self.registry.settings.data / "replicas" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        app = build_replica(self.name, self.engine, folder=folder, registry=metrics, log=self.log, clock=CLOCK)
        self.port = await self.site.start(app, host="127.0.0.1", port=0)
        self.replica = LocalReplica(
            self.engine,
            self.registry.engine,
            place=Place(
                self.name,
                f"http://127.0.0.1:{self.port}",
                folder / "bundles",
                open_chunks("folder", self.registry.settings.artifacts),
            ),
            preference=Preference("cpu-fp32", self.arrangement),
            log=self.log,
            clock=CLOCK,
            draw=lambda: 0.0,
        )
        self.tasks = [asyncio.create_task(self.replica.converge()), asyncio.create_task(self.replica.report())]
        return self

    def served(self) -> dict[str, str]:
        """State by `name@version`."""
        return {f"{row.name}@{row.version}": row.state for row in self.replica.served()}

    async def crash(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.site.close()
        await self.engine.close()


class Gateway:
    """The gateway's own composition on this loop, and a client of it."""

    def __init__(self, registry: Registry, session: aiohttp.ClientSession) -> None:
        self.registry = registry
        self.session = session
        self.token: str | None = None

    async def start(self) -> "Gateway":
        log, self.lines = log_sink()
        self.metrics = CollectorRegistry()
        self.program = Program(log)
        port = await run_gateway(
            self.registry.settings,
            engine=self.registry.engine,
            keys=self.registry.keys,
            program=self.program,
            log=log,
            registry=self.metrics,
            clock=CLOCK,
            drain=2.0,
        )
        self.url = f"http://127.0.0.1:{port}"
        self.running = asyncio.create_task(self.program.run())
        return self

    async def stop(self) -> None:
        self.program.stopping.set()
        await self.running

    async def __call__(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, object]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            named.setdefault("Authorization", f"Bearer {self.token}")
        data = None if body is None else msgspec.json.encode(body)
        if data is not None:
            named.setdefault("Content-Type", "application/json")
        async with self.session.request(method, self.url + path, data=data, headers=named) as answer:
            self.headers = answer.headers
            raw = await answer.read()
            return answer.status, msgspec.json.decode(raw) if "json" in answer.content_type else raw.decode()

    async def sentiment(self, text: str, **headers: str) -> tuple[int, object]:
        return await self("POST", "/predict", {"model": "sentiment", "text": text}, **headers)


@asynccontextmanager
async def registry(url: str, folder: Path) -> AsyncIterator[Registry]:
    settings = Settings(
        data_dir=str(folder / "data"),
        database_url=url,
        gateway_port=0,
        admin_password="a password 123",
        mqtt_port=find_ports("127.0.0.1"),
    )
    keys = load_or_create(settings.secrets)
    engine = open_database(url)
    await commands.ensure_first_run(engine, settings, keys, CLOCK.wall())
    try:
        yield Registry(engine, settings, keys)
    finally:
        await engine.dispose()


@asynccontextmanager
async def cloud(url: str, folder: Path, *names: str) -> AsyncIterator[tuple[Registry, Gateway, list[InProcessReplica]]]:
    """A gateway with the replicas `names`; its client speaks as a client of tenant `default`."""
    async with registry(url, folder) as made, aiohttp.ClientSession() as session:
        replicas = [await InProcessReplica(made, name).start() for name in names]
        gateway = await Gateway(made, session).start()
        gateway.token = await made.token("client")
        try:
            yield made, gateway, replicas
        finally:
            await gateway.stop()
            for replica in replicas:
                await replica.crash()
