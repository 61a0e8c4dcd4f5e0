"""`/api/v1/chunks/{digest}`: uploading what manifests are made of, verified as it comes and durable before it is acknowledged.

`rows` makes the same routes for any store: what imports read is uploaded in the same way into a store of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import ClientPayloadError, hdrs, web

from cloud_core.api.routes import Call, Handler, Needs, Reply, Route, Scope, absent
from cloud_core.decide.access import Resource, Verb
from shared.bundle.manifest import Chunk
from shared.bundle.store import ChunkStore
from shared.protocol import names
from shared.protocol.errors import Corrupt, Refusal, Refused

PATH = "/api/v1/chunks"
MAX_CHUNK = 64 << 20
MAX_ASKED = 100_000
_BLOCK = 1 << 20
_NAMED = 3


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Digests to look for."""

    digests: tuple[str, ...]


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """Those that are not here, in the order they were asked."""

    missing: tuple[str, ...]


StoreOf = Callable[[Call], ChunkStore]


async def uploaded(call: Call, store: ChunkStore) -> Reply:
    """Keep a chunk; harmless when it is here."""
    digest = names.checked("digest", call.segment("digest"), field="digest")
    size = call.request.content_length
    if size is not None and size > MAX_CHUNK:
        raise _too_large(size)
    try:
        writer = await asyncio.to_thread(store.writing(digest, size=size).__enter__)
        try:
            async for piece in call.request.content.iter_chunked(_BLOCK):
                await asyncio.to_thread(writer.write, piece)
                if writer.written > MAX_CHUNK:
                    raise _too_large(writer.written)
            await asyncio.to_thread(writer.commit)
        finally:
            await asyncio.to_thread(writer.__exit__, None, None, None)
    except Corrupt as error:
        raise Refused(error.message, kind=Refusal.UNPROCESSABLE, field="body", code=error.code) from error
    except (web.PayloadAccessError, ClientPayloadError, ConnectionError) as error:
        raise Refused("the body could not be read", field="body") from error
    return Reply(status=201)


async def looked_at(call: Call, store: ChunkStore) -> web.StreamResponse:
    """Is the chunk here?"""
    digest = names.checked("digest", call.segment("digest"), field="digest")
    size = await asyncio.to_thread(store.size, digest)
    if size is None:
        raise absent("chunk", digest)
    return web.Response(headers={hdrs.CONTENT_LENGTH: str(size)}, content_type="application/octet-stream")


async def searched(call: Call, store: ChunkStore) -> Reply:
    """Which of many chunks are not here?"""
    body: Asked = call.body
    if len(body.digests) > MAX_ASKED:
        raise Refused("too many digests", field="digests", value=len(body.digests), allowed=f"{MAX_ASKED} at most")
    for i, digest in enumerate(body.digests):
        names.checked("digest", digest, field=f"digests[{i}]")
    missing = await asyncio.to_thread(lambda: tuple(digest for digest in body.digests if not store.has(digest)))
    return Reply(value=Missing(missing=missing))


def _too_large(size: int) -> Refused:
    return Refused(
        "the chunk is too large", kind=Refusal.TOO_LARGE, field="body", value=size, allowed=f"{MAX_CHUNK} bytes"
    )


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


def rows(path: str, store: StoreOf, *, look: Needs, put: Needs, what: str) -> tuple[Route, ...]:
    """The routes of one store: its `path`, which store a call means, and who may look and upload."""

    def over(run: Callable[[Call, ChunkStore], Awaitable[Reply | web.StreamResponse]]) -> Handler:
        return lambda call: run(call, store(call))

    return (
        Route(
            method="PUT", path=path + "/{digest}", access=put, scope=Scope.NONE, run=over(uploaded), status=201,
            summary=f"Upload {what}, raw",
        ),
        Route(
            method="HEAD", path=path + "/{digest}", access=look, scope=Scope.NONE, run=over(looked_at),
            summary=f"Whether {what} is here, and its size",
        ),
        Route(
            method="POST", path=path + ":missing", access=look, scope=Scope.NONE, run=over(searched), body=Asked,
            max_body=16 << 20, summary=f"Which of many are not here: {what}", answer=Missing,
        ),
    )  # fmt: skip


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    return rows(
        PATH,
        lambda call: call.api.artifacts(call.tenant),
        look=Needs(Verb.READ, Resource.CHUNKS),
        put=Needs(Verb.CREATE, Resource.CHUNKS),
        what="a chunk",
    )
