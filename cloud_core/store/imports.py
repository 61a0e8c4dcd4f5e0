"""Imports: models on their way from a source to a version, each a row that outlives whoever asked for it and whoever works on it.

Invariants:

* a model's version has at most one import that is queued or in progress (a partial unique index);
* who works on an import holds (id, attempts): everything it writes does nothing once the import was cancelled, given back or
  taken up by another, and says so by False;
* every change of state is an event in the same transaction.
"""

from collections.abc import Iterable
from enum import StrEnum

import msgspec
import sqlalchemy as sa

from cloud_core.store import events, tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import changed, columns, every, first, insert, text_of
from shared.bundle.manifest import File

_T = tables.imports
MAX_ATTEMPTS = 3
HUB = "modelscope:"
"""Sources that start so are fetched by the importer; all others were uploaded."""


class State(StrEnum):
    """Where an import is; the last three are for good."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = (State.QUEUED, State.IN_PROGRESS)


class SourceFile(File, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a source: `path` is relative to it, with `/` between folders; the chunks in order make up its bytes."""


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an import is asked to do. `files` are the whole source, or empty where it is fetched from a hub.

    `golden` and `signature` are files beside the source; the rest as `cloud_core.importer.request.ImportRequest` says.
    """

    source: str
    variants: tuple[str, ...]
    files: tuple[SourceFile, ...] = ()
    golden: SourceFile | None = None
    signature: SourceFile | None = None
    accept_drift: dict[str, float] = {}
    prune_heads: float = 0.0
    schema: str | None = None
    description: str = ""

    @property
    def hub(self) -> str | None:
        """The source where it is on a hub; None where its files are here."""
        return self.source if self.source.startswith(HUB) else None

    @property
    def every_file(self) -> tuple[SourceFile, ...]:
        """All files that were uploaded for it."""
        beside = (file for file in (self.golden, self.signature) if file is not None)
        return (*self.files, *beside)


class ImportProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why an import failed. `refused`: what was asked for cannot be had; otherwise it could not be done here and now."""

    code: str
    detail: str
    field: str | None = None
    value: str | None = None
    allowed: str | None = None
    refused: bool = False


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """One import; `request` and `error` are JSON text of `Asked` and `ImportProblem`, `digest` is of the version it made."""

    tenant: str
    id: str
    model: str
    version: str
    request: str
    requested_by: str
    state: State
    attempts: int
    step: str
    done: float
    detail: str
    error: str | None
    digest: str | None
    created_at: float
    started_at: float | None
    updated_at: float
    finished_at: float | None

    @property
    def asked(self) -> Asked:
        """What it is to do."""
        return msgspec.json.decode(self.request, type=Asked)

    @property
    def problem(self) -> ImportProblem | None:
        """Why it failed; None where it did not."""
        return None if self.error is None else msgspec.json.decode(self.error, type=ImportProblem)

    @property
    def order(self) -> tuple[float, str]:
        """Its place in time."""
        return self.created_at, self.id


def request_text(asked: Asked) -> str:
    """The text that is stored: equal for equal requests."""
    return msgspec.json.encode(asked, order="sorted").decode()


async def create(
    connection: Connection,
    tenant: str,
    id_: str,
    *,
    model: str,
    version: str,
    request: str,
    requested_by: str,
    now: float,
) -> Import | None:
    """A new import in the queue; None where one of the same version is queued or in progress."""
    values = {"model": model, "version": version, "request": request, "requested_by": requested_by}
    fresh = {"state": State.QUEUED.value, "attempts": 0, "step": "", "done": 0.0, "detail": ""}
    statement = insert(connection, _T).values(tenant=tenant, id=id_, created_at=now, updated_at=now, **values, **fresh)
    if await changed(connection, statement.on_conflict_do_nothing()) == 0:
        return None
    return await _told(connection, tenant, id_, kind="created", now=now)


async def get(connection: Connection, tenant: str, id_: str) -> Import | None:
    """One import."""
    return await first(connection, _of(tenant).where(_T.c.id == id_), Import)


async def page(
    connection: Connection, tenant: str, *, before: tuple[float, str] | None = None, limit: int = 100
) -> list[Import]:
    """Imports, newest first, from the one behind the place `before`."""
    statement = _of(tenant)
    if before is not None:
        statement = statement.where(sa.tuple_(_T.c.created_at, _T.c.id) < before)
    return await every(connection, statement.order_by(_T.c.created_at.desc(), _T.c.id.desc()).limit(limit), Import)


async def live(connection: Connection, tenant: str, model: str, version: str) -> Import | None:
    """The import of a version that is queued or in progress."""
    return await first(connection, _of_version(tenant, model, version).where(_T.c.state.in_(LIVE)), Import)


async def completed(connection: Connection, tenant: str, model: str, version: str) -> Import | None:
    """The newest import that made a version."""
    done = _of_version(tenant, model, version).where(_T.c.state == State.COMPLETED)
    return await first(connection, done.order_by(_T.c.created_at.desc()).limit(1), Import)


async def cancel(connection: Connection, tenant: str, id_: str, *, now: float) -> bool:
    """End an import that is queued or in progress; False where it ended already or there is none."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.id == id_, _T.c.state.in_(LIVE))
    ended = {"state": State.CANCELLED.value, "updated_at": now, "finished_at": now}
    if await changed(connection, sa.update(_T).where(own).values(**ended)) == 0:
        return False
    await _told(connection, tenant, id_, kind="cancelled", now=now)
    return True


async def is_waiting(connection: Connection) -> bool:
    """Whether any import of any tenant waits."""
    return (await connection.execute(sa.select(_T.c.id).where(_T.c.state == State.QUEUED).limit(1))).first() is not None


async def claim(connection: Connection, *, now: float) -> Import | None:
    """Take up the import that has waited longest; None where none waits."""
    waiting = sa.select(_T).where(_T.c.state == State.QUEUED)
    # Rows a second worker has just locked are its own; SQLite has one writer anyway and leaves these words out.
    oldest = waiting.order_by(_T.c.created_at, _T.c.id).limit(1).with_for_update(skip_locked=True)
    one = await first(connection, oldest, Import)
    if one is None:
        return None
    taken = {
        "state": State.IN_PROGRESS.value, "attempts": one.attempts + 1, "step": "", "done": 0.0, "detail": "",
        "started_at": now, "updated_at": now,
    }  # fmt: skip
    await connection.execute(sa.update(_T).where(_is(one)).values(**taken))
    return await _told(connection, one.tenant, one.id, kind="started", now=now)


async def progress(connection: Connection, one: Import, *, step: str, done: float, detail: str, now: float) -> bool:
    """How far a claimed import is; False where it is no longer its worker's."""
    said = {"step": step, "done": done, "detail": detail, "updated_at": now}
    return await _worked(connection, one, kind="progress", now=now, **said)


async def is_held(connection: Connection, one: Import) -> bool:
    """Whether a claimed import still is its worker's."""
    return (await connection.execute(sa.select(_T.c.id).where(_held(one)))).first() is not None


async def give_back(connection: Connection, one: Import, *, now: float) -> bool:
    """A worker that is told to stop puts its import back into the queue; the attempt does not count."""
    queued = {"state": State.QUEUED.value, "attempts": one.attempts - 1, "updated_at": now}
    return await _worked(connection, one, kind="queued", now=now, **queued)


async def complete(connection: Connection, one: Import, *, digest: str, detail: str = "", now: float) -> bool:
    """A claimed import made the version `digest`; False where it is no longer its worker's. `detail`: what is to be known of it."""
    ended = {
        "state": State.COMPLETED.value, "step": "", "done": 1.0, "detail": detail, "digest": digest, "updated_at": now,
        "finished_at": now,
    }  # fmt: skip
    return await _worked(connection, one, kind="completed", now=now, **ended)


async def fail(connection: Connection, one: Import, problem: ImportProblem, *, now: float) -> bool:
    """A claimed import made nothing; False where it is no longer its worker's."""
    ended = {"state": State.FAILED.value, "error": text_of(problem), "updated_at": now, "finished_at": now}
    return await _worked(connection, one, kind="failed", now=now, **ended)


async def left_behind(connection: Connection) -> list[Import]:
    """Imports in progress, over all tenants: to a worker that has just started, those whose worker died."""
    statement = sa.select(_T).where(_T.c.state == State.IN_PROGRESS).order_by(_T.c.created_at, _T.c.id)
    return await every(connection, statement.with_for_update(), Import)


async def requeue(connection: Connection, one: Import, *, now: float) -> bool:
    """Put back an import whose worker died; the attempt counts."""
    return await _worked(connection, one, kind="queued", now=now, state=State.QUEUED.value, updated_at=now)


async def needed(connection: Connection, *, failed_after: float) -> list[Import]:
    """Imports, over all tenants, whose files must stay: those to be done, and those that failed since and may be asked for anew."""
    again = sa.and_(_T.c.state == State.FAILED, _T.c.finished_at > failed_after)
    return await every(connection, sa.select(_T).where(sa.or_(_T.c.state.in_(LIVE), again)), Import)


async def trim(connection: Connection, *, before: float) -> None:
    """Forget imports that ended before then."""
    await connection.execute(sa.delete(_T).where(_T.c.state.not_in(LIVE), _T.c.finished_at < before))


def digests_of(files: Iterable[SourceFile]) -> frozenset[str]:
    """The chunks some files are made of."""
    return frozenset(chunk.digest for file in files for chunk in file.chunks)


def _of(tenant: str) -> sa.Select[tuple[object, ...]]:
    return sa.select(*columns(_T, Import)).where(_T.c.tenant == tenant)


def _of_version(tenant: str, model: str, version: str) -> sa.Select[tuple[object, ...]]:
    return _of(tenant).where(_T.c.model == model, _T.c.version == version)


def _is(one: Import) -> sa.ColumnElement[bool]:
    return sa.and_(_T.c.tenant == one.tenant, _T.c.id == one.id)


def _held(one: Import) -> sa.ColumnElement[bool]:
    return sa.and_(_is(one), _T.c.state == State.IN_PROGRESS, _T.c.attempts == one.attempts)


async def _worked(connection: Connection, one: Import, *, kind: str, now: float, **values: object) -> bool:
    if await changed(connection, sa.update(_T).where(_held(one)).values(**values)) == 0:
        return False
    await _told(connection, one.tenant, one.id, kind=kind, now=now)
    return True


async def _told(connection: Connection, tenant: str, id_: str, *, kind: str, now: float) -> Import:
    """The import as it is now, and an event that says so."""
    one = await get(connection, tenant, id_)
    if one is None:
        raise RuntimeError("an import that was just written is there")
    data = {"model": one.model, "version": one.version, "state": one.state, "step": one.step, "done": one.done}
    if one.problem is not None:
        data["error"] = one.problem.code
    await events.append(connection, tenant, kind=kind, resource="imports", name=id_, now=now, data=data)
    return one
