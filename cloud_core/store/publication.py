"""Making a version of a manifest, for everything that publishes: the chunks are durable before, this is the moment it exists."""

import asyncio
from collections.abc import Sequence

import msgspec

from cloud_core.store import models, tenants, versions
from cloud_core.store.chunks import Chunks
from cloud_core.store.database import Connection
from cloud_core.store.versions import Version
from shared.bundle.chunks import chunks_of
from shared.bundle.manifest import Chunk, Manifest, digest_of, parse_manifest
from shared.protocol.errors import Refusal, Refused

_NAMED = 3


class Prepared(msgspec.Struct, frozen=True):
    """A manifest that was checked: its text, digest and value."""

    text: str
    digest: str
    manifest: Manifest


def prepare(data: bytes) -> Prepared:
    """The manifest in `data`; it is kept byte for byte, because the digest of these very bytes is the version's identity.

    Raises:
        Refused: not UTF-8, not a manifest, or one that contradicts itself; names the field.

    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Refused("the manifest is not UTF-8", field="body") from error
    return Prepared(text, digest_of(data), parse_manifest(data))


async def publish(
    connection: Connection,
    tenant: str,
    prepared: Prepared,
    chunks: Chunks,
    *,
    description: str = "",
    published_by: str,
    now: float,
) -> Version:
    """The version, made or as it stood with the same content; `description` is for a model that is new.

    Raises:
        Refused: the version stands with other content, or `chunks`, the tenant's, lack some of it.

    """
    await tenants.hold(connection, tenant, alone=False)
    lacking = await asyncio.to_thread(chunks.lacking, chunks_of(prepared.manifest.files))
    if lacking:
        raise incomplete(lacking)
    name, version = prepared.manifest.name, prepared.manifest.version
    await models.create(connection, tenant, name, description=description, now=now)
    held = await versions.publish(
        connection,
        tenant,
        model=name,
        version=version,
        digest=prepared.digest,
        manifest=prepared.text,
        published_by=published_by,
        now=now,
    )
    if not held:
        raise immutable(version)
    stored = await versions.get(connection, tenant, name, version)
    if stored is None:
        raise RuntimeError("a version that was just stored is there")
    return stored


def incomplete(lacking: Sequence[Chunk]) -> Refused:
    """422: what a request names was not uploaded."""
    named = ", ".join(chunk.digest for chunk in lacking[:_NAMED])
    return Refused(
        f"{len(lacking)} chunks are not here",
        kind=Refusal.UNPROCESSABLE,
        field="files",
        value=named,
        allowed="upload them first",
        code="chunks-missing",
    )


def immutable(version: str) -> Refused:
    """409: a version never changes."""
    return Refused(
        "the version stands with other content",
        kind=Refusal.CONFLICT,
        field="version",
        value=version,
        allowed="a version that is new",
        code="immutable",
    )
