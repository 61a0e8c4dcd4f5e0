"""`/api/v1/imports`: models on their way from a source to a version, as tasks that can be watched and cancelled.

A local source's files are uploaded in chunks first, into a store that no device reads; then the import is asked for, and the
loops do it. Asking for the same again is harmless: it answers the import that is under way or was completed.
"""

import asyncio
import uuid

import msgspec

from cloud_core.api import chunks
from cloud_core.api.import_request import NewImport, checked
from cloud_core.api.paging import QUERY, after_of, limit_of, page_of
from cloud_core.api.routes import Call, Needs, Page, Reply, Route, Scope, absent, conflict
from cloud_core.decide.access import Resource, Verb
from cloud_core.store import imports, versions
from cloud_core.store.imports import LIVE, Import, ImportProblem, State
from cloud_core.store.publication import immutable, incomplete
from shared.bundle.chunks import chunks_of
from shared.protocol.errors import Refused

PATH = "/api/v1/imports"
CHUNKS = PATH + "/chunks"


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """The version an import made."""

    model: str
    version: str
    digest: str


class ImportView(msgspec.Struct, frozen=True, kw_only=True):
    """One import. `state`: queued, in_progress, completed, failed or cancelled; `done` of all work, 0 to 1."""

    id: str
    model: str
    version: str
    source: str
    variants: tuple[str, ...]
    state: State
    step: str
    done: float
    detail: str
    attempts: int
    error: ImportProblem | None
    result: Made | None
    requested_by: str
    created_at: float
    started_at: float | None
    updated_at: float
    finished_at: float | None


async def listed(call: Call) -> Reply:
    """A page of imports."""
    limit, after = limit_of(call), after_of(call)
    found = await imports.page(call.connection, call.tenant, before=_place(after), limit=limit + 1)
    return Reply(value=page_of(found, limit, key=lambda one: f"{one.created_at!r}/{one.id}", view=_view))


async def shown(call: Call) -> Reply:
    """One import."""
    return Reply(value=_view(await _found(call)))


async def prepared(call: Call) -> str:
    """Ahead of the transaction: is this an import that can be done, and is every chunk of it here?"""
    body: NewImport = call.body
    asked = checked(body, most_bytes=call.api.settings.import_disk_bytes)
    store = call.api.import_sources(call.tenant)
    wanted = chunks_of(asked.every_file)
    lacking = await asyncio.to_thread(lambda: [chunk for chunk in wanted if store.size(chunk.digest) != chunk.size])
    if lacking:
        raise incomplete(lacking)
    return imports.request_text(asked)


async def created(call: Call) -> Reply:
    """A new import, or the one that does or did the very same."""
    body: NewImport = call.body
    request: str = call.prepared
    done = await _done_already(call, body, request)
    if done is not None:
        return _accepted(done, status=200)
    made = await imports.create(
        call.connection,
        call.tenant,
        str(uuid.uuid4()),
        model=body.model,
        version=body.version,
        request=request,
        requested_by=call.principal.label,
        now=call.now,
    )
    if made is None:
        made = await imports.live(call.connection, call.tenant, body.model, body.version)
        if made is None or made.request != request:
            raise conflict(
                "another import of this version is under way", field="version", value=body.version, code="in-progress"
            )
    return _accepted(made, status=202)


async def cancelled(call: Call) -> Reply:
    """End an import; one that was cancelled already answers the same."""
    one = await _found(call)
    if one.state in LIVE:
        await imports.cancel(call.connection, call.tenant, one.id, now=call.now)
        one = await _found(call)
    if one.state is not State.CANCELLED:
        raise conflict("the import has ended", field="state", value=one.state.value, code="ended")
    return Reply(value=_view(one), name=one.id, detail={"model": one.model, "version": one.version})


async def _done_already(call: Call, body: NewImport, request: str) -> Import | None:
    """The import that made this very version of this very request.

    Raises:
        Refused: the version stands, and not for that reason.

    """
    digest = await versions.digest_of(call.connection, call.tenant, body.model, body.version)
    if digest is None:
        return None
    before = await imports.completed(call.connection, call.tenant, body.model, body.version)
    if before is None or (before.request, before.digest) != (request, digest):
        raise immutable(body.version)
    # A deleted version comes back by doing it again.
    present = await versions.get(call.connection, call.tenant, body.model, body.version)
    return before if present is not None else None


async def _found(call: Call) -> Import:
    id_ = call.segment("import")
    one = await imports.get(call.connection, call.tenant, id_)
    if one is None:
        raise absent("import", id_)
    return one


def _accepted(one: Import, *, status: int) -> Reply:
    detail = {"model": one.model, "version": one.version, "source": one.asked.source}
    return Reply(value=_view(one), status=status, location=f"{PATH}/{one.id}", name=one.id, detail=detail)


def _place(after: str) -> tuple[float, str] | None:
    if not after:
        return None
    at, _, id_ = after.partition("/")
    try:
        return float(at), id_
    except ValueError as error:
        raise Refused("not a cursor of this list", field="cursor", value=after, allowed="`next` of a page") from error


def _view(one: Import) -> ImportView:
    asked = one.asked
    return ImportView(
        id=one.id,
        model=one.model,
        version=one.version,
        source=asked.source,
        variants=asked.variants,
        state=one.state,
        step=one.step,
        done=one.done,
        detail=one.detail,
        attempts=one.attempts,
        error=one.problem,
        result=None if one.digest is None else Made(model=one.model, version=one.version, digest=one.digest),
        requested_by=one.requested_by,
        created_at=one.created_at,
        started_at=one.started_at,
        updated_at=one.updated_at,
        finished_at=one.finished_at,
    )


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    read, create, update = (Needs(verb, Resource.IMPORTS) for verb in (Verb.READ, Verb.CREATE, Verb.UPDATE))
    one = PATH + "/{import}"
    return (
        Route(
            method="GET", path=PATH, access=read, scope=Scope.READ, run=listed, query=QUERY,
            summary="Imports, newest first", answer=Page[ImportView],
        ),
        Route(
            method="POST", path=PATH, access=create, scope=Scope.WRITE, run=created, before=prepared, body=NewImport,
            max_body=8 << 20, status=202,
            summary="Import a model: a local source's chunks are here already, a hub's are fetched", answer=ImportView,
        ),
        *chunks.rows(
            CHUNKS, lambda call: call.api.import_sources(call.tenant), look=create, put=create, what="a chunk of a source"
        ),
        Route(
            method="GET", path=one, access=read, scope=Scope.READ, run=shown, summary="One import", answer=ImportView,
        ),
        Route(
            method="POST", path=one + "/cancel", access=update, scope=Scope.WRITE, run=cancelled,
            summary="End an import that has not ended", answer=ImportView,
        ),
    )  # fmt: skip
