"""`/api/v1/models/{model}/versions`: publishing. The chunks are uploaded first (`chunks`), then the manifest makes them a version."""

import asyncio

import msgspec

from cloud_core.api.models import PATH as MODELS
from cloud_core.api.paging import QUERY, page_within
from cloud_core.api.routes import Call, Needs, Page, Reply, Route, Scope, absent, conflict, document
from cloud_core.api.while_present import while_present
from cloud_core.decide.access import Resource, Verb
from cloud_core.store import assignments, models, rollouts, versions
from cloud_core.store.publication import Prepared, incomplete, prepare, publish
from cloud_core.store.versions import Version
from shared.bundle.chunks import chunks_of
from shared.bundle.manifest import MAX_BYTES
from shared.protocol.errors import Refused

PATH = MODELS + "/{model}/versions"


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """One version; `size` is the bytes of all its files."""

    model: str
    version: str
    digest: str
    task: str
    variants: tuple[str, ...]
    size: int
    published_by: str
    created_at: float


class VersionDetail(VersionView, frozen=True, kw_only=True):
    """One version with its manifest."""

    manifest: msgspec.Raw | None


class Published(VersionView, frozen=True, kw_only=True):
    """A version that was just published. `unrun` says of each variant that could not be tried here why; it was inspected only."""

    unrun: tuple[str, ...] = ()


class Tried(msgspec.Struct, frozen=True):
    """A manifest that was checked and whose variants passed."""

    prepared: Prepared
    unrun: tuple[str, ...]


async def listed(call: Call) -> Reply:
    """All versions of a model, oldest first."""
    model = call.segment("model")
    if await models.get(call.connection, call.tenant, model) is None:
        raise absent("model", model)
    found = await versions.of_model(call.connection, call.tenant, model)
    return Reply(value=page_within(call, found, key=_order, view=_view))


async def shown(call: Call) -> Reply:
    """One version and its manifest."""
    version = await _found(call)
    view = msgspec.structs.asdict(_view(version))
    return Reply(value=VersionDetail(manifest=document(version.manifest), **view), revision=version.digest)


async def checked(call: Call) -> Tried:
    """Ahead of publishing: is this a manifest of this model, is every chunk here, and does each variant pass its trial?"""
    prepared = prepare(call.body)
    manifest = prepared.manifest
    if manifest.name != call.segment("model"):
        raise Refused(
            "the manifest is another model's", field="name", value=manifest.name, allowed=call.segment("model")
        )
    store = call.api.artifacts(call.tenant)
    lacking = await asyncio.to_thread(store.lacking, chunks_of(manifest.files))
    if lacking:
        raise incomplete(lacking)
    return await while_present(call.request, _tried(call, prepared))


async def _tried(call: Call, prepared: Prepared) -> Tried:
    passed = await call.api.gate.passed(call.body, prepared.manifest, call.api.artifacts(call.tenant))
    return Tried(prepared, passed.unrun)


async def published(call: Call) -> Reply:
    """Make a version of a manifest; publishing the same again answers the same."""
    tried: Tried = call.prepared
    stored = await publish(
        call.connection,
        call.tenant,
        tried.prepared,
        call.api.artifacts(call.tenant),
        published_by=call.principal.label,
        now=call.now,
    )
    await call.api.trust.keep(call.connection, call.tenant, now=call.now)
    name, version = stored.model, stored.version
    return Reply(
        value=Published(unrun=tried.unrun, **msgspec.structs.asdict(_view(stored))),
        status=201,
        revision=stored.digest,
        location=f"{MODELS}/{name}/versions/{version}",
        name=f"{name}@{version}",
        detail={"digest": stored.digest},
    )


async def deleted(call: Call) -> Reply:
    """Hide a version that no group is assigned; devices that still run it keep it."""
    version = await _found(call)
    call.match(version.digest)
    # Hidden first: an assignment that is being made holds the row, so either it sees this or this sees it.
    await versions.delete(call.connection, call.tenant, version.model, version.version, now=call.now)
    for assignment in await assignments.everywhere(call.connection, call.tenant):
        if any((wanted.name, wanted.version) == (version.model, version.version) for wanted in assignment.wanted):
            raise conflict("a group is assigned this version", field="group", value=assignment.group, code="in-use")
    for rollout in await rollouts.holding(call.connection, call.tenant):
        if (rollout.model, rollout.version) == (version.model, version.version):
            raise conflict("a rollout gives devices this version", field="rollout", value=rollout.id, code="in-use")
    await call.api.trust.keep(call.connection, call.tenant, now=call.now)
    return Reply()


async def _found(call: Call) -> Version:
    model, version = call.segment("model"), call.segment("version")
    found = await versions.get(call.connection, call.tenant, model, version)
    if found is None:
        raise absent("version", f"{model}@{version}")
    return found


def _order(version: Version) -> str:
    return f"{version.created_at:020.6f}/{version.version}"


def _view(version: Version) -> VersionView:
    manifest = version.parsed
    return VersionView(
        model=version.model,
        version=version.version,
        digest=version.digest,
        task=manifest.task,
        variants=tuple(variant.name for variant in manifest.variants),
        size=sum(file.size for file in manifest.files),
        published_by=version.published_by,
        created_at=version.created_at,
    )


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    read, create, delete = (Needs(verb, Resource.VERSIONS) for verb in (Verb.READ, Verb.CREATE, Verb.DELETE))
    one = PATH + "/{version}"
    return (
        Route(
            method="GET", path=PATH, access=read, scope=Scope.READ, run=listed, query=QUERY,
            summary="Versions of a model, oldest first", answer=Page[VersionView],
        ),
        Route(
            method="POST", path=PATH, access=create, scope=Scope.WRITE, run=published, before=checked,
            body=bytes, max_body=MAX_BYTES, status=201,
            summary="Publish a version: the body is its manifest, its chunks are here already; each variant is tried first",
            answer=Published,
        ),
        Route(
            method="GET", path=one, access=read, scope=Scope.READ, run=shown,
            summary="One version with its manifest", answer=VersionDetail,
        ),
        Route(
            method="DELETE", path=one, access=delete, scope=Scope.WRITE, run=deleted, status=204,
            summary="Hide a version that no group is assigned",
        ),
    )  # fmt: skip
