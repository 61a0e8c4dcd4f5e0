"""A chunk over HTTP: in the form it is kept in where the client takes that, whole or the range of it that was asked for.

The packed form is a representation of its own, as HTTP has it: `Content-Encoding: zstd`, an entity tag of its own, and ranges that
count its bytes. So a device that was interrupted goes on within the packed form, and nothing is packed or unpacked for it here.
"""

import asyncio
from http import HTTPStatus
from typing import NamedTuple

from aiohttp import hdrs, web

from cloud_core.store.chunks import Chunks
from shared.bundle.packing import ENCODING

OCTETS = "application/octet-stream"
FOR_EVER = "private, max-age=31536000, immutable"


class Part(NamedTuple):
    """Bytes from `begin` on of a representation of `whole` bytes; None where the range asked for has none."""

    data: bytes | None
    begin: int
    whole: int
    packed: bool


async def answer_chunk(request: web.Request, store: Chunks, digest: str) -> web.Response | None:
    """The answer to GET; None where the chunk is not here.

    Raises:
        Corrupt: it rotted.
        Transient: the store did not give it.

    """
    takes_packed = ENCODING in _accepted(request)
    part = await asyncio.to_thread(_part, request, store, digest, takes_packed=takes_packed)
    if part is None:
        return None
    headers = {hdrs.ETAG: _tag(digest, packed=part.packed), hdrs.VARY: hdrs.ACCEPT_ENCODING}
    headers |= {hdrs.CACHE_CONTROL: FOR_EVER, hdrs.ACCEPT_RANGES: "bytes"}
    if part.data is None:
        headers[hdrs.CONTENT_RANGE] = f"bytes */{part.whole}"
        return web.Response(status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
    if part.packed:
        headers[hdrs.CONTENT_ENCODING] = ENCODING
    status = HTTPStatus.OK
    if len(part.data) != part.whole:
        status = HTTPStatus.PARTIAL_CONTENT
        headers[hdrs.CONTENT_RANGE] = f"bytes {part.begin}-{part.begin + len(part.data) - 1}/{part.whole}"
    return web.Response(body=part.data, status=status, headers=headers, content_type=OCTETS)


def _part(request: web.Request, store: Chunks, digest: str, *, takes_packed: bool) -> Part | None:
    found = store.look(digest)
    if found is None:
        return None
    # Content that looks packed is packed whatever that saves; moved is what is shorter.
    packed = found.packed and takes_packed and found.stored < found.size
    whole = found.stored if packed else found.size
    asked = _asked(request, whole, _tag(digest, packed=packed))
    if asked is None:
        return Part(None, 0, whole, packed)
    begin, end = asked
    if found.packed and not packed:
        return Part(store.get(digest)[begin:end], begin, whole, packed)
    # All of it is asked for without bounds: a larger form may have been put in between.
    data = store.kept(digest) if (begin, end) == (0, whole) else store.kept(digest, begin, end)
    return Part(data, begin, whole if (begin, end) != (0, whole) else len(data), packed)


def _asked(request: web.Request, whole: int, tag: str) -> tuple[int, int] | None:
    """First byte and the one behind the last; None for a range with nothing in it. What is no range at all is passed over."""
    condition = request.headers.get(hdrs.IF_RANGE)
    if hdrs.RANGE not in request.headers or (condition is not None and condition != tag):
        return 0, whole
    try:
        asked = request.http_range
    except ValueError:
        return 0, whole
    begin = 0 if asked.start is None else asked.start
    begin = max(0, whole + begin) if begin < 0 else begin
    end = whole if asked.stop is None else min(asked.stop, whole)
    return (begin, end) if begin < end else None


def _accepted(request: web.Request) -> set[str]:
    """The encodings the client names without ruling them out."""
    found = set()
    for one in request.headers.get(hdrs.ACCEPT_ENCODING, "").lower().split(","):
        name, _, weight = one.partition(";")
        if weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            found.add(name.strip())
    return found


def _tag(digest: str, *, packed: bool) -> str:
    return f'"{digest}{"." + ENCODING if packed else ""}"'
