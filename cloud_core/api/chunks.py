"""`/api/v1/chunks/{digest}`: uploading what manifests are made of, verified as it comes and durable before it is acknowledged.

`rows` makes the same routes for any store: what imports read is uploaded in the same way into a store of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import msgspec
from aiohttp import hdrs, web

from cloud_core.api.routes import Call, Handler, Needs, Reply, Route, Scope, absent
from cloud_core.decide.access import Resource, Verb
from shared.io.web_body import read_body
from shared.protocol import names
from shared.protocol.errors import Corrupt, Refusal, Refused

PATH = "/api/v1/chunks"
MAX_CHUNK = 64 << 20
MAX_ASKED = 100_000


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Digests to look for."""

    digests: tuple[str, ...]


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """Those that are not here, in the order they were asked."""

    missing: tuple[str, ...]


class Uploads(Protocol):
    """A store that is uploaded to."""

    def put(self, digest: str, data: bytes) -> None:
        """Keep a chunk, durably; `Corrupt` where the bytes are not what `digest` names."""
        ...

    def sizes(self, digests: Iterable[str]) -> dict[str, int]:
        """Bytes of those that are here, in the order asked."""
        ...


StoreOf = Callable[[Call], Uploads]


async def uploaded(call: Call, store: Uploads) -> Reply:
    """Keep a chunk; harmless when it is here."""
    digest = names.checked("digest", call.segment("digest"), field="digest")
    data = await read_body(call.request, MAX_CHUNK)
    try:
        await asyncio.to_thread(store.put, digest, data)
    except Corrupt as error:
        raise Refused(error.message, kind=Refusal.UNPROCESSABLE, field="body", code=error.code) from error
    return Reply(status=201)


async def looked_at(call: Call, store: Uploads) -> web.StreamResponse:
    """Is the chunk here?"""
    digest = names.checked("digest", call.segment("digest"), field="digest")
    size = (await asyncio.to_thread(store.sizes, (digest,))).get(digest)
    if size is None:
        raise absent("chunk", digest)
    return web.Response(headers={hdrs.CONTENT_LENGTH: str(size)}, content_type="application/octet-stream")


async def searched(call: Call, store: Uploads) -> Reply:
    """Which of many chunks are not here?"""
    body: Asked = call.body
    if len(body.digests) > MAX_ASKED:
        raise Refused("too many digests", field="digests", value=len(body.digests), allowed=f"{MAX_ASKED} at most")
    for i, digest in enumerate(body.digests):
        names.checked("digest", digest, field=f"digests[{i}]")
    held = await asyncio.to_thread(store.sizes, body.digests)
    return Reply(value=Missing(missing=tuple(digest for digest in body.digests if digest not in held)))


def rows(path: str, store: StoreOf, *, look: Needs, put: Needs, what: str) -> tuple[Route, ...]:
    """The routes of one store: its `path`, which store a call means, and who may look and upload."""

    def over(run: Callable[[Call, Uploads], Awaitable[Reply | web.StreamResponse]]) -> Handler:
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
