"""Imports by the loop with a stand-in for the importer, and sources for them."""

import asyncio
import contextlib
import hashlib
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.loops.import_attempt import Importer
from cloud_core.loops.import_child import Limits
from cloud_core.loops.imports import Imports, Place
from cloud_core.models.trial import Gate
from cloud_core.store import imports, tenants
from cloud_core.store.chunk_stores import open_chunks
from cloud_core.store.chunks import Chunks
from cloud_core.store.database import open_database, read, write
from cloud_core.store.imports import Asked, Import, SourceFile
from shared.bundle.manifest import Chunk, canonical
from shared.bundle.store import ChunkStore
from shared.io.clock import SystemClock
from tests.cloud_core.api.bundles import bundle
from tests.cloud_core.api.server import OpenGate
from tests.cloud_core.broker.brokers import LOG
from tests.cloud_core.waiting import eventually

STAND_IN = Path(__file__).with_name("stand_in.py")
LIMITS = Limits(memory_bytes=1 << 30, seconds=60.0, disk_bytes=1 << 30)
PUBLISHES = [["say", "export", 0.5], ["bundle"], ["imported"]]
"""What an import that goes well does."""


class Site:
    """One data folder and its registry."""

    def __init__(self, engine: AsyncEngine, folder: Path, limits: Limits = LIMITS) -> None:
        self.engine = engine
        self.folder = folder
        self.place = Place(
            folder / "imports", sources=self._sources, artifacts=open_chunks("folder", folder / "artifacts")
        )
        self.gate: Gate = OpenGate()
        self.importer = Importer(
            sys.executable,
            program=(sys.executable, "-P", str(STAND_IN)),
            environment={"PATH": "/usr/bin:/bin"},
            limits=limits,
            hidden=(folder / "secrets", folder / "imports"),
        )

    def _sources(self, tenant: str) -> Path:
        return self.folder / "imports" / tenant / "chunks"

    def sources(self, tenant: str = "default") -> ChunkStore:
        return ChunkStore(self._sources(tenant))

    def artifacts(self, tenant: str = "default") -> Chunks:
        return self.place.artifacts(tenant)

    def work(self) -> list[str]:
        return [entry.name for entry in (self.folder / "imports" / "_work").iterdir() if entry.is_dir()]

    def loop(self) -> Imports:
        return Imports(self.engine, self.place, self.importer, self.gate, clock=SystemClock(), log=LOG)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Imports]:
        """The loop until the block ends; it stops as a process that is told to."""
        loop = self.loop()
        task = asyncio.create_task(loop.run())
        try:
            yield loop
        finally:
            await loop.close()
            await task

    async def ask(
        self,
        play: Sequence[Sequence[Any]],
        *,
        id_: str = "one",
        version: str = "1.0.0",
        tenant: str = "default",
        made: str = "tiny",
        **asked: Any,
    ) -> Import:
        """Upload and queue an import that plays `play`; its bundle, where it makes one, is that of `made`."""
        manifest, pieces = bundle(made, version)
        contents = {
            "play.json": json.dumps(play).encode(),
            "manifest.json": canonical(manifest),
            "model.onnx": b"".join(pieces),
        }
        files = tuple(self.upload(name, data, tenant) for name, data in contents.items())
        request = Asked(source="folder", variants=("cpu-fp32",), files=files, **asked)
        async with write(self.engine) as connection:
            await tenants.create(connection, tenant, now=time.time())
            one = await imports.create(
                connection,
                tenant,
                id_,
                model="tiny",
                version=version,
                request=imports.request_text(request),
                requested_by="user:ann",
                now=time.time(),
            )
        assert one is not None
        return one

    def upload(self, path: str, data: bytes, tenant: str = "default") -> SourceFile:
        digest = hashlib.sha256(data).hexdigest()
        self.sources(tenant).put(digest, data)
        return SourceFile(path=path, size=len(data), sha256=digest, chunks=(Chunk(digest, len(data)),))

    async def get(self, id_: str = "one", tenant: str = "default") -> Import:
        async with read(self.engine) as connection:
            one = await imports.get(connection, tenant, id_)
        assert one is not None
        return one

    async def until(self, *states: str, id_: str = "one", tenant: str = "default") -> Import:
        async def reached() -> Import | None:
            one = await self.get(id_, tenant)
            return one if one.state in states else None

        return await eventually(reached, within=30)

    async def failed(self, play: Sequence[Sequence[Any]], **asked: Any) -> imports.ImportProblem:
        """Why an import that plays `play` fails."""
        await self.ask(play, **asked)
        async with self.running():
            one = await self.until("failed", "completed")
        assert one.problem is not None, one
        return one.problem


@contextlib.asynccontextmanager
async def site(url: str, folder: Path, **limits: float) -> AsyncIterator[Site]:
    """A data folder over the registry at `url`; `limits` other than the usual."""
    engine = open_database(url)
    try:
        yield Site(engine, folder, LIMITS._replace(**limits))
    finally:
        await engine.dispose()


async def at(here: Site, step: str, *, id_: str = "one") -> Import | None:
    """The import, once it is at a step."""
    one = await here.get(id_)
    return one if one.step == step else None


async def soon(value: bool) -> bool:
    """What `eventually` waits for, where there is nothing to await."""
    return value
