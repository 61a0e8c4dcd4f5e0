"""The HTTP server pieces every process uses: errors in the right shape, request ids, bounded bodies, and a `Site`.

Invariants:

* every error leaves as one of three shapes, chosen by path (`shared.io.problems.shape_of`);
* a client never sees a traceback; an exception outside the taxonomy is logged once, with the request's id, and is a 500;
* every response carries `X-Request-Id`, the caller's own where it is well formed, and no `Server` header;
* no body is read past its limit.
"""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import ClientPayloadError, hdrs, web
from aiohttp.http import HttpProcessingError

from shared.io.logs import Log
from shared.io.problems import (
    JSON,
    PROBLEM,
    Shape,
    error_response,
    failure_of,
    json_response,
    openai_envelope,
    problem_response,
    shape_of,
)
from shared.io.request_ids import request_id_of
from shared.protocol.errors import Corrupt, Refusal, Refused, TidelineError
from shared.protocol.topics import Header

__all__ = [
    "JSON",
    "MAX_BODY",
    "PROBLEM",
    "REQUEST_ID",
    "Handler",
    "Shape",
    "Site",
    "bad_json",
    "check_media_type",
    "error_response",
    "errors",
    "failure_of",
    "json_of",
    "json_response",
    "middlewares",
    "openai_envelope",
    "problem_response",
    "read_body",
    "read_json",
    "request_ids",
    "shape_of",
]

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY = 16 * 1024 * 1024
"""Bytes of a request body unless a route says otherwise."""
REQUEST_ID = web.RequestKey("request_id", str)


def middlewares(
    log: Log, shape_for: Callable[[str], Shape] = shape_of
) -> list[Callable[..., Awaitable[web.StreamResponse]]]:
    """What every application starts with, outermost first: request ids, then errors."""
    return [request_ids, errors(log, shape_for)]


@web.middleware
async def request_ids(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id: the caller's where it is well formed, else a new UUID; logs of the request carry it."""
    request[REQUEST_ID] = request_id_of(request.headers.get(Header.REQUEST_ID))
    return await handler(request)


def errors(log: Log, shape_for: Callable[[str], Shape] = shape_of) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that turns every exception into a response of the path's shape."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return error_response(error, shape_for(request.path), request_id=request.get(REQUEST_ID))
        except TidelineError as error:
            # Refusals, overload and missed deadlines are counted where they happen: a flood of them must not become a flood of lines.
            if isinstance(error, Corrupt):
                log.exception("request failed", path=request.path, code=error.code, error=error.message)
            return error_response(error, shape_for(request.path), request_id=request.get(REQUEST_ID))
        except Exception as error:
            log.exception("unexpected error in a request", path=request.path, method=request.method)
            return error_response(error, shape_for(request.path), request_id=request.get(REQUEST_ID))

    return middleware


async def read_body(request: web.Request, limit: int = MAX_BODY) -> bytes:
    """The whole body, at most `limit` bytes (after any content encoding is undone).

    Raises:
        Refused: too large (before it is read where its length was declared), or cut short.

    """
    declared = request.content_length
    if declared is not None and declared > limit:
        raise _too_large(declared, limit)
    if not request.body_exists:
        return b""
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.content.iter_any():
            size += len(part)
            if size > limit:
                raise _too_large(size, limit)
            parts.append(part)
    except (web.RequestPayloadError, web.PayloadAccessError, ClientPayloadError, HttpProcessingError) as error:
        # Or aiohttp would try to read the rest once the answer is out; the connection ends with that answer.
        request.content.feed_eof()
        raise Refused("the body could not be read", field="body") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(size: int, limit: int) -> Refused:
    return Refused("the body is too large", kind=Refusal.TOO_LARGE, field="body", value=size, allowed=f"{limit} bytes")


async def read_json(request: web.Request, into: type[T], *, limit: int = MAX_BODY, optional: bool = False) -> T:
    """The body as `into`; an absent body is `{}` where it is `optional`.

    Raises:
        Refused: another media type than JSON (415), too large (413), not JSON or a field of the wrong type (400), naming it.

    """
    # Saying nothing is taken as JSON, and a body that may be absent and is has no type to check.
    if hdrs.CONTENT_TYPE in request.headers and (request.body_exists or not optional):
        check_media_type(request.content_type, JSON)
    body = await read_body(request, limit)
    return json_of(body or b"{}" if optional else body, into)


def check_media_type(given: str, *allowed: str) -> None:
    """Refuse a media type that is none of `allowed`."""
    if given not in allowed and not (JSON in allowed and given.endswith("+json")):
        raise Refused(
            "unsupported media type",
            kind=Refusal.MEDIA_TYPE,
            field="Content-Type",
            value=given,
            allowed=", ".join(allowed),
        )


def json_of(body: bytes, into: type[T]) -> T:
    """JSON `body` as `into`; the refusal names the field as `texts[0]`, without a leading `$`."""
    try:
        return msgspec.json.decode(body, type=into)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_json(error) from error


def bad_json(error: Exception) -> Refused:
    """The refusal of a body msgspec complains of: the field it names, a missing one included."""
    text, _, path = str(error).partition(" - at `")
    field = path.rstrip("`").removeprefix("$").removeprefix(".")
    for phrase in ("missing required field `", "unknown field `"):
        if phrase in text:
            name = text.partition(phrase)[2].rstrip("`")
            field = f"{field}.{name}" if field else name
    return Refused(f"malformed JSON body: {text}", field=field or "body")


class Site:
    """One application on one TCP port, and on a Unix socket where asked; stops in order.

    `stop_accepting` closes the listening sockets, `drain` waits for the requests in flight (their connections close after
    the answer), `close` ends what is left.
    """

    def __init__(self, *, cancel_on_disconnect: bool = False) -> None:
        """`cancel_on_disconnect` cancels the handler of a client that went away: inference wants it, writes must not."""
        self._cancel = cancel_on_disconnect
        self._runner: web.AppRunner | None = None
        self._sites: list[web.BaseSite] = []
        self._in_flight = 0
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """How many requests are being answered."""
        return self._in_flight

    async def start(self, app: web.Application, *, host: str, port: int, uds: Path | str | None = None) -> int:
        """Listen; returns the port, which differs from `port` only when that is 0.

        Raises:
            Refused: the port or the socket's path cannot be had.

        """
        app.middlewares.insert(0, self._counted())
        app.on_response_prepare.append(self._on_prepare)
        runner = web.AppRunner(
            app, access_log=None, handle_signals=False, handler_cancellation=self._cancel, shutdown_timeout=1.0
        )
        await runner.setup()
        self._runner = runner
        try:
            tcp = web.TCPSite(runner, host, port, backlog=1024)
            await tcp.start()
            self._sites.append(tcp)
            actual = int(runner.addresses[0][1])
        except OSError as error:
            await self.close()
            taken = "in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
            raise Refused(
                f"cannot listen: {taken}",
                kind=Refusal.CONFLICT,
                field="port",
                value=f"{host}:{port}",
                allowed="a free port",
            ) from error
        if uds is not None and str(uds):
            try:
                _forget(Path(uds))
                unix = web.UnixSite(runner, str(uds), backlog=1024)
                await unix.start()
                self._sites.append(unix)
            except OSError as error:
                await self.close()
                raise Refused(
                    f"cannot listen: {error.strerror}", kind=Refusal.CONFLICT, field="uds", value=str(uds)
                ) from error
        return actual

    async def stop_accepting(self) -> None:
        """Take no new connection; answers from now on close theirs."""
        self._stopping = True
        sites, self._sites = self._sites, []
        for site in sites:
            await site.stop()

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109 - the brief of a shutdown, not of a call
        """Wait until no request is in flight, `timeout` seconds at most; whether none is."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """End the remaining connections and free everything; harmless when called twice."""
        runner, self._runner = self._runner, None
        self._sites = []
        if runner is not None:
            await runner.cleanup()

    def _counted(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._in_flight += 1
            self._idle.clear()
            try:
                return await handler(request)
            finally:
                self._in_flight -= 1
                if self._in_flight == 0:
                    self._idle.set()

        return count

    async def _on_prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers.pop(hdrs.SERVER, None)
        known = request.get(REQUEST_ID)
        if known is not None:
            headers[Header.REQUEST_ID] = known
        if self._stopping or request.content.exception() is not None:
            response.force_close()
            headers[hdrs.CONNECTION] = "close"


def _forget(socket: Path) -> None:
    # A socket file outlives the process that made it; the folder's lock, not this file, keeps two agents apart.
    socket.unlink(missing_ok=True)
