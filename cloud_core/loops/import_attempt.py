"""One attempt at one import: its source put together, the importer run, its bundle checked, kept and published."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.importer.request import BUNDLE, ImportRequest, Progressed
from cloud_core.loops import import_files
from cloud_core.loops.import_child import Limits, Ran, missing_extra, problem_of, run_child
from cloud_core.loops.import_launch import Walls, command
from cloud_core.models.publish import build_bundle
from cloud_core.models.trial import Gate, PassedVersion
from cloud_core.store import audit, imports, publication
from cloud_core.store.chunks import Chunks
from cloud_core.store.database import Connection, read, write
from cloud_core.store.imports import Import, ImportProblem
from cloud_core.store.publication import Prepared
from shared.bundle.store import ChunkStore
from shared.io.clock import Clock
from shared.io.durable import write_durably
from shared.io.logs import Log
from shared.protocol.errors import Refused, TidelineError, Transient

T = TypeVar("T")
LOOK_S = 0.5
TELL_S = 1.0
"""Progress is written at most this often."""
AGAIN_S = 1.0
PREPARED, IMPORTED = 0.02, 0.95
"""Shares of all work that are done when the importer starts, and when it ends."""
LONGEST_STEP, LONGEST_DETAIL = 64, 1000


class Importer(NamedTuple):
    """Who imports: its Python, the program before REQUEST and WORK, its environment and limits; `hidden` it cannot read."""

    python: str
    program: Sequence[str]
    environment: Mapping[str, str]
    limits: Limits
    hidden: Sequence[Path]


class Attempt:
    """Works on one claimed import in `work`, a folder of its own. `sources` and `artifacts` are its tenant's stores."""

    def __init__(
        self,
        one: Import,
        work: Path,
        *,
        sources: ChunkStore,
        artifacts: Chunks,
        importer: Importer,
        gate: Gate,
        engine: AsyncEngine,
        clock: Clock,
        log: Log,
    ) -> None:
        self._one = one
        self._path = work
        self._sources = sources
        self._artifacts = artifacts
        self._importer = importer
        self._gate = gate
        self._engine = engine
        self._clock = clock
        self._log = log
        self._latest = Progressed(step="prepare", done=0.0)
        self._told = self._latest
        self._told_at = clock.monotonic() - TELL_S

    async def run(self) -> ImportProblem | None:
        """Why nothing was published; None where it was, or where the import was cancelled meanwhile."""
        try:
            request = await asyncio.to_thread(self._prepare)
            ran = await self._while_ours(self._imported(request))
            if ran is None:
                return None
            problem = problem_of(ran)
            if problem is not None:
                return problem
            self._latest = Progressed(step="try", done=IMPORTED, detail="each variant, in a process of its own")
            tried = await self._while_ours(self._tried())
            return None if tried is None else await self._published(*tried)
        except Refused as error:
            return ImportProblem(
                code=error.code,
                detail=error.message,
                field=error.field,
                value=None if error.value is None else str(error.value)[:200],
                allowed=error.allowed,
                refused=True,
            )
        except TidelineError as error:
            return ImportProblem(code=error.code, detail=error.message)

    def _prepare(self) -> Path:
        """The work folder with the source in it; the request's file."""
        asked = self._one.asked
        import_files.fresh_work(self._path)
        source = import_files.materialize(asked, self._sources, self._path)
        request = ImportRequest(
            name=self._one.model,
            version=self._one.version,
            said=asked.source,
            hub=asked.hub,
            path=None if source is None else str(source),
            variants=asked.variants,
            accept_drift=asked.accept_drift,
            prune_heads=asked.prune_heads,
            schema=asked.schema,
            description=asked.description,
            **import_files.given(asked, self._path),
        )
        file = self._path / "request.json"
        write_durably(file, msgspec.json.encode(request), mode=0o600)
        return file

    async def _imported(self, request: Path) -> Ran:
        """The importer's run; cancelling this kills it."""
        importer, home = self._importer, self._path / import_files.HOME
        walls = Walls(
            parent=os.getpid(),
            memory_bytes=importer.limits.memory_bytes,
            file_bytes=importer.limits.disk_bytes,
            network=self._one.asked.hub is not None,
            work=str(self._path),
            hidden=tuple(str(path) for path in importer.hidden),
        )
        temporary = str(self._path / import_files.TEMPORARY)
        try:
            return await run_child(
                command(importer.python, walls, [*importer.program, str(request), str(self._path)]),
                work=self._path,
                environment={**importer.environment, "HOME": str(home), "TMPDIR": temporary, "PYTHONUNBUFFERED": "1"},
                limits=importer.limits,
                said=self._hear,
            )
        except OSError as error:
            return Ran(None, 0, missing_extra(f"{importer.python}: {error.strerror}"), "")

    async def _tried(self) -> tuple[Prepared, PassedVersion]:
        """The bundle, kept in the tenant's store, and what its trial says.

        Raises:
            Refused: the trial did not pass.

        """
        prepared = await asyncio.to_thread(self._kept)
        return prepared, await self._gate.passed(prepared.text.encode(), prepared.manifest, self._artifacts)

    async def _while_ours(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`; None, and `work` is ended, where the import was cancelled meanwhile."""
        task = asyncio.create_task(work)
        try:
            while not task.done():
                await asyncio.wait((task,), timeout=LOOK_S)
                if not await self._is_ours():
                    return None
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait((task,))

    def _hear(self, said: Progressed) -> None:
        """Take note of how far it is; a bar never goes back."""
        done = PREPARED + min(max(said.done, 0.0), 1.0) * (IMPORTED - PREPARED)
        step, detail = said.step[:LONGEST_STEP], said.detail[:LONGEST_DETAIL]
        self._latest = Progressed(step=step, done=max(done, self._latest.done), detail=detail)

    async def _is_ours(self) -> bool:
        """Whether the import is still to be done; writes how far it is where that is news, now and then."""
        now, news = self._clock.monotonic(), self._latest
        try:
            if news == self._told or now - self._told_at < TELL_S:
                async with read(self._engine) as connection:
                    return await imports.is_held(connection, self._one)
            self._told, self._told_at = news, now
            async with write(self._engine) as connection:
                return await imports.progress(
                    connection, self._one, step=news.step, done=news.done, detail=news.detail, now=self._clock.wall()
                )
        except Transient as error:
            # The importer works on; whether the import still is ours is asked again before anything is published.
            self._log.warning("progress of an import is not told", error=error.message)
            return True

    def _kept(self) -> Prepared:
        """The bundle's chunks, durable in the tenant's store; nothing of a bundle that is not the one that was asked for."""
        bundle = self._path / BUNDLE
        import_files.check_bundle(bundle, model=self._one.model, version=self._one.version)
        _, data = build_bundle(bundle, self._artifacts)
        return publication.prepare(data)

    async def _published(self, prepared: Prepared, passed: PassedVersion) -> ImportProblem | None:
        """The version, its audit and the import's completion, in one transaction; nothing where it was cancelled."""
        one = self._one

        async def publish(connection: Connection) -> None:
            now = self._clock.wall()
            detail = "; ".join(passed.unrun)[:LONGEST_DETAIL]
            if not await imports.complete(connection, one, digest=prepared.digest, detail=detail, now=now):
                return
            await publication.publish(
                connection,
                one.tenant,
                prepared,
                self._artifacts,
                description=one.asked.description,
                published_by=one.requested_by,
                now=now,
            )
            await audit.append(
                connection,
                one.tenant,
                principal=one.requested_by,
                verb="create",
                resource="versions",
                name=f"{one.model}@{one.version}",
                now=now,
                detail={"digest": prepared.digest, "import": one.id},
            )

        await settled(self._engine, publish, self._log)
        return None


async def settled(engine: AsyncEngine, work: Callable[[Connection], Awaitable[T]], log: Log) -> T:
    """The result of one write transaction, tried until the database takes it."""
    while True:
        try:
            async with write(engine) as connection:
                return await work(connection)
        except Transient as error:
            log.warning("an import's end waits for the database", error=error.message)
        await asyncio.sleep(AGAIN_S)
