"""Imports: one at a time, from the queue to a published version, by a child process that may die without harm.

Level-triggered and recomputable: everything follows from the `imports` table and the uploaded chunks. An attempt starts from an
empty folder; what a process that died left behind is queued again, a few times. A version exists only once its chunks are durable
and the import still is ours: both are settled in one transaction with the audit.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.loops import import_files
from cloud_core.loops.import_attempt import Attempt, Importer, settled
from cloud_core.models.trial import Gate
from cloud_core.store import imports
from cloud_core.store.chunk_stores import ChunksOf
from cloud_core.store.database import read, write
from cloud_core.store.imports import MAX_ATTEMPTS, Import, ImportProblem, digests_of
from shared.bundle.store import ChunkStore
from shared.io.clock import Clock
from shared.io.durable import FolderLock, make_folder
from shared.io.logs import Log
from shared.protocol.errors import Refused, Transient

POLL_S = 0.5
TIDY_EVERY_S = 600.0
DAY_S = 86400.0
KEEP_SOURCES_S = DAY_S
"""What was uploaded waits this long for its import to be asked for, and that of a failed one for being asked for again."""
KEEP_IMPORTS_S = 90 * DAY_S
WORK = "_work"
"""Beside the tenants' folders; no tenant can have this name."""


class Place(NamedTuple):
    """Where imports happen: the folder of them all, and by tenant where sources lie and where artifacts go."""

    folder: Path
    sources: Callable[[str], Path]
    artifacts: ChunksOf


class Imports:
    """Owner of the import under way."""

    def __init__(
        self, engine: AsyncEngine, place: Place, importer: Importer, gate: Gate, *, clock: Clock, log: Log
    ) -> None:
        """`gate` decides whether what was imported may become a version."""
        self._engine = engine
        self._place = place
        self._importer = importer
        self._gate = gate
        self._clock = clock
        self._log = log
        self._work = place.folder / WORK
        self._current: asyncio.Task[None] | None = None
        self._closing = False

    async def run(self) -> None:
        """Until `close`: what an earlier process left is queued again, then one import after the other."""
        lock = FolderLock(self._work, field="data_dir")
        await self._lock(lock)
        recovered, tidy_at = False, self._clock.monotonic()
        try:
            while not self._closing:
                try:
                    if not recovered:
                        await self._recover()
                        recovered = True
                    if self._clock.monotonic() >= tidy_at:
                        await self.tidy()
                        tidy_at = self._clock.monotonic() + TIDY_EVERY_S
                    if await self._next():
                        continue
                except Transient as error:
                    self._log.warning("imports wait", error=error.message)
                await asyncio.sleep(POLL_S)
        finally:
            lock.release()

    async def close(self) -> None:
        """Take up no more; the import under way ends and goes back into the queue."""
        self._closing = True
        if self._current is not None:
            self._current.cancel()
            await asyncio.wait((self._current,))

    async def tidy(self) -> None:
        """Remove folders and chunks that no import needs, and forget imports of long ago."""
        now = self._clock.wall()
        async with write(self._engine) as connection:
            await imports.trim(connection, before=now - KEEP_IMPORTS_S)
        needed = await self._needed(now)
        await asyncio.to_thread(import_files.discard_works, self._work)
        for tenant in await asyncio.to_thread(self._tenants):
            store, keep = ChunkStore(self._place.sources(tenant)), needed.get(tenant, frozenset())
            await asyncio.to_thread(import_files.discard_chunks, store, keep, older_than=now - KEEP_SOURCES_S)

    async def _lock(self, lock: FolderLock) -> None:
        told = False
        while True:
            try:
                await asyncio.to_thread(make_folder, self._work, mode=0o700)
                return await asyncio.to_thread(lock.acquire)
            except (OSError, Refused) as error:
                if not told:
                    self._log.warning("imports wait for their folder", error=str(error))
                told = True
            await asyncio.sleep(POLL_S)

    async def _recover(self) -> None:
        """Whoever was at work died: back into the queue, or no more of it."""
        now = self._clock.wall()
        async with write(self._engine) as connection:
            for one in await imports.left_behind(connection):
                self._log.warning("an import was left behind", id=one.id, attempts=one.attempts)
                if one.attempts < MAX_ATTEMPTS:
                    await imports.requeue(connection, one, now=now)
                    continue
                detail = (
                    f"the process that runs imports died {one.attempts} times with it, last at: {one.step or 'start'}"
                )
                await imports.fail(connection, one, ImportProblem(code="crashed", detail=detail), now=now)

    async def _next(self) -> bool:
        """Do the import that has waited longest; False where none waits."""
        async with read(self._engine) as connection:
            if not await imports.is_waiting(connection):
                return False
        async with write(self._engine) as connection:
            one = await imports.claim(connection, now=self._clock.wall())
        if one is None:
            return False
        self._current = asyncio.create_task(self._whole(one), name=f"import:{one.id}")
        try:
            await asyncio.wait((self._current,))
        finally:
            self._current.cancel()
        if not self._current.cancelled():
            self._current.result()
        return True

    async def _whole(self, one: Import) -> None:
        """One import to its end, whatever that is; its folder is gone afterwards."""
        log = self._log.bind(id=one.id, tenant=one.tenant, model=one.model, version=one.version)
        log.info("import started", attempt=one.attempts, source=one.asked.source)
        work = self._work / one.id
        attempt = Attempt(
            one,
            work,
            sources=ChunkStore(self._place.sources(one.tenant)),
            artifacts=self._place.artifacts(one.tenant),
            importer=self._importer,
            gate=self._gate,
            engine=self._engine,
            clock=self._clock,
            log=log,
        )
        try:
            problem = await attempt.run()
        except asyncio.CancelledError:
            await settled(
                self._engine, lambda connection: imports.give_back(connection, one, now=self._clock.wall()), log
            )
            raise
        finally:
            await asyncio.to_thread(import_files.discard, work)
        if problem is not None:
            log.warning("import failed", code=problem.code, error=problem.detail)
            await settled(
                self._engine, lambda connection: imports.fail(connection, one, problem, now=self._clock.wall()), log
            )
        await self._ended(one, log)

    async def _ended(self, one: Import, log: Log) -> None:
        """What was uploaded for an import that completed or was cancelled goes, but what another one needs."""
        needed = (await self._needed(self._clock.wall())).get(one.tenant, frozenset())
        spare = digests_of(one.asked.every_file) - needed
        store = ChunkStore(self._place.sources(one.tenant))
        for digest in spare:
            await asyncio.to_thread(store.discard, digest)
        log.info("import ended", chunks_removed=len(spare))

    async def _needed(self, now: float) -> dict[str, frozenset[str]]:
        """The chunks that must stay, by tenant."""
        async with read(self._engine) as connection:
            found = await imports.needed(connection, failed_after=now - KEEP_SOURCES_S)
        kept: dict[str, frozenset[str]] = {}
        for one in found:
            kept[one.tenant] = kept.get(one.tenant, frozenset()) | digests_of(one.asked.every_file)
        return kept

    def _tenants(self) -> list[str]:
        return [entry.name for entry in os.scandir(self._place.folder) if entry.is_dir() and entry.name != WORK]
