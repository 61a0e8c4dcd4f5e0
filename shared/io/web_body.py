"""The body of a request: bounded while it comes, bounded once its encoding is undone, and decoded where it delays nobody."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from aiohttp import ClientPayloadError, StreamReader, hdrs, web
from aiohttp.http import HttpProcessingError

from shared.io.web_connection import Connection
from shared.io.web_door import PIECE
from shared.protocol.errors import Refusal, Refused

T = TypeVar("T")

MAX_BODY = 16 * 1024 * 1024
"""Bytes of a request body unless a route says otherwise."""
LARGE = 256 * 1024
"""Bytes from which a body is decoded off the loop: milliseconds that other requests would wait."""
_GZIP, _ZLIB, _RAW = 31, 15, -15
_BROKEN = (
    web.RequestPayloadError,
    web.PayloadAccessError,
    ClientPayloadError,
    HttpProcessingError,
    ConnectionError,
)


async def read_body(request: web.Request, limit: int = MAX_BODY) -> bytes:
    """The whole body, at most `limit` bytes, also once its content encoding (gzip or deflate) is undone.

    Raises:
        Refused: too large (before it is read where its length was declared), too slow, of another encoding, or cut short.
        Overloaded: there is no room for it beside the others that are in flight.

    """
    declared = request.content_length
    if declared is not None and declared > limit:
        raise _too_large(declared, limit)
    encoding = _encoding_of(request)
    if not request.body_exists:
        return b""
    content = request.content
    connection = request.protocol if isinstance(request.protocol, Connection) else None
    if connection is not None and declared is not None:
        connection.door.check(declared - PIECE)
    try:
        if content.is_eof():
            body = content.read_nowait(-1)
            if len(body) > limit:
                raise _too_large(len(body), limit)
        else:
            body = await _gathered(content, limit, connection)
    except _BROKEN as error:
        # Or aiohttp would try to read the rest once the answer is out; the connection ends with that answer.
        content.feed_eof()
        raise Refused("the body could not be read", field="body") from error
    if connection is not None:
        connection.taken()
    if encoding is not None:
        body = await off_the_loop(request, LARGE + 1, partial(_inflated, body, encoding, limit))
    if connection is not None:
        connection.hold(len(body))
    return body


async def off_the_loop(request: web.Request, size: int, work: Callable[[], T]) -> T:
    """What `work` makes of a body of `size` bytes; of large ones, one at a time and in a thread."""
    if size <= LARGE:
        return work()
    if not isinstance(request.protocol, Connection):
        return await asyncio.to_thread(work)
    async with request.protocol.door.decoding:
        return await asyncio.to_thread(work)


def expecting(limit: int) -> Callable[[web.Request], Awaitable[None]]:
    """How a route that takes `limit` bytes answers `Expect`: a body it would refuse is not asked for."""

    async def expect(request: web.Request) -> None:
        # RFC 9110 lets a server pass over any other expectation.
        if request.headers[hdrs.EXPECT].lower() == "100-continue" and (request.content_length or 0) <= limit:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # This was no part of the answer: an error may still be one.
            request.writer.output_size = 0

    return expect


async def _gathered(content: StreamReader, limit: int, connection: Connection | None) -> bytes:
    parts: list[bytes] = []
    size = 0
    while not content.at_eof():
        part = await content.readany()
        size += len(part)
        if size > limit:
            raise _too_large(size, limit)
        if connection is not None:
            connection.hold(size)
        parts.append(part)
    # A body that was given up on has ended as well.
    if (error := content.exception()) is not None:
        raise error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _encoding_of(request: web.Request) -> str | None:
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Refused(
            "unsupported content encoding",
            kind=Refusal.MEDIA_TYPE,
            field=hdrs.CONTENT_ENCODING,
            value=encoding,
            allowed="gzip, deflate",
        )
    return encoding


def _inflated(body: bytes, encoding: str, limit: int) -> bytes:
    # Many send deflate without the header that RFC 1950 asks for; its low four bits are 8.
    deflate = _ZLIB if body[:1] and body[0] & 0xF == zlib.DEFLATED else _RAW
    stream = zlib.decompressobj(deflate if encoding == "deflate" else _GZIP)
    try:
        data = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refused(f"the body is not {encoding}", field="body") from error
    if len(data) > limit:
        raise Refused(
            f"the body is too large once its {encoding} is undone",
            kind=Refusal.TOO_LARGE,
            field="body",
            allowed=f"{limit} bytes",
        )
    if not stream.eof or stream.unused_data:
        raise Refused(f"the body is not one whole stream of {encoding}", field="body")
    return data


def _too_large(size: int, limit: int) -> Refused:
    return Refused("the body is too large", kind=Refusal.TOO_LARGE, field="body", value=size, allowed=f"{limit} bytes")
