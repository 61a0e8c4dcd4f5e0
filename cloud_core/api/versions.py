"""`/api/v1/models/{model}/versions`: publishing. The chunks are uploaded first (`chunks`), then the manifest makes them a version."""

import asyncio

import msgspec

from cloud_core.api.models import PATH as MODELS
from cloud_core.api.paging import QUERY, page_within
from cloud_core.api.routes import Call, Needs, Page, Reply, Route, Scope, absent, conflict, document
from cloud_core.decide.access import Resource, Verb
from cloud_core.store import assignments, models, versions
from cloud_core.store.versions import Version
from shared.bundle.chunks import chunks_of
from shared.bundle.manifest import MAX_BYTES, Chunk, Manifest, digest_of, parse_manifest
from shared.protocol.errors import Refusal, Refused

PATH = MODELS + "/{model}/versions"
_NAMED = 3


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


class Prepared(msgspec.Struct, frozen=True):
    """A manifest that was checked: its text, digest and value."""

    text: str
    digest: str
    manifest: Manifest


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


async def checked(call: Call) -> Prepared:
    """Ahead of publishing: is this a manifest of this model, and is every chunk here?"""
    try:
        text = call.body.decode()
    except UnicodeDecodeError as error:
        raise Refused("the manifest is not UTF-8", field="body") from error
    manifest = parse_manifest(call.body)
    if manifest.name != call.segment("model"):
        raise Refused(
            "the manifest is another model's", field="name", value=manifest.name, allowed=call.segment("model")
        )
    store = call.api.artifacts(call.tenant)
    wanted = chunks_of(manifest.files)
    lacking = await asyncio.to_thread(lambda: [chunk for chunk in wanted if store.size(chunk.digest) != chunk.size])
    if lacking:
        raise _incomplete(lacking)
    # Kept byte for byte: the digest of these very bytes is the version's identity.
    return Prepared(text, digest_of(call.body), manifest)


async def published(call: Call) -> Reply:
    """Make a version of a manifest; publishing the same again answers the same."""
    prepared: Prepared = call.prepared
    name, version = prepared.manifest.name, prepared.manifest.version
    await models.create(call.connection, call.tenant, name, description="", now=call.now)
    held = await versions.publish(
        call.connection,
        call.tenant,
        model=name,
        version=version,
        digest=prepared.digest,
        manifest=prepared.text,
        published_by=call.principal.label,
        now=call.now,
    )
    if not held:
        raise conflict("the version stands with other content", field="version", value=version, code="immutable")
    stored = await versions.get(call.connection, call.tenant, name, version)
    if stored is None:
        raise RuntimeError("a version that was just stored is there")
    return Reply(
        value=_view(stored),
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
    return Reply()


async def _found(call: Call) -> Version:
    model, version = call.segment("model"), call.segment("version")
    found = await versions.get(call.connection, call.tenant, model, version)
    if found is None:
        raise absent("version", f"{model}@{version}")
    return found


def _order(version: Version) -> str:
    return f"{version.created_at:020.6f}/{version.version}"


def _incomplete(lacking: list[Chunk]) -> Refused:
    named = ", ".join(chunk.digest for chunk in lacking[:_NAMED])
    return Refused(
        f"{len(lacking)} chunks of the manifest are not here",
        kind=Refusal.UNPROCESSABLE,
        field="files",
        value=named,
        allowed="upload them first",
        code="chunks-missing",
    )


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
            summary="Publish a version: the body is its manifest, its chunks are here already", answer=VersionView,
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
