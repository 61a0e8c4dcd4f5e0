"""One application on one TCP port, and on a Unix socket where asked; starts, bounds what clients may take, stops in order."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from aiohttp import hdrs, web

from shared.io.problems import error_response, shape_of
from shared.io.request_ids import REQUEST_ID
from shared.io.web_connection import Connection
from shared.io.web_door import Door, Limits, Turnstile
from shared.protocol.errors import Refusal, Refused
from shared.protocol.topics import Header

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_BACKLOG = 1024
_ACCEPTS = 16
"""Connections accepted in one turn of the event loop. libuv takes one per turn and listening socket (1.49 and later): the clients of a
busy loop, some hundreds at once, would wait for as many turns, and where the queue overflows for seconds of TCP's own retries."""


class Site:
    """`stop_accepting` closes the listening sockets, `drain` waits for the requests in flight (their connections close after
    the answer), `close` ends what is left.
    """  # noqa: D205 - one sentence

    def __init__(self, *, cancel_on_disconnect: bool = False, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        """`cancel_on_disconnect` cancels the handler of a client that went away: inference wants it, writes must not."""
        self._cancel = cancel_on_disconnect
        self._door = Door(limits)
        self._runner: web.AppRunner | None = None
        self._listening: list[asyncio.Server] = []
        self._uds: tuple[Path, int] | None = None
        self._in_flight = 0
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """How many requests are being answered."""
        return self._in_flight

    def details(self) -> Mapping[str, object]:
        """What `/health` tells of the connections."""
        door = self._door
        told = {"open": door.open, "most": door.most, "turned_away": door.turned_away, "bodies_bytes": door.held}
        return {"connections": told}

    async def start(self, app: web.Application, *, host: str, port: int, uds: Path | str | None = None) -> int:
        """Listen; returns the port, which differs from `port` only when that is 0.

        Raises:
            Refused: the port or the socket's path cannot be had.

        """
        app.middlewares.insert(0, self._counted())
        app.on_response_prepare.append(self._on_prepare)
        runner = web.AppRunner(app, handle_signals=False, handler_cancellation=self._cancel, shutdown_timeout=1.0)
        await runner.setup()
        self._runner = runner
        try:
            return await self._listen(runner, host, port, uds)
        except Refused:
            await self.close()
            raise

    def turn_away_by(self, turnstile: Turnstile) -> None:
        """From now on ask `turnstile` about what comes before it is parsed."""
        self._door.turnstile = turnstile

    async def stop_accepting(self) -> None:
        """Take no new connection; answers from now on close theirs."""
        self._stopping = True
        self._door.turnstile = None
        self._deaf()

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
        self._deaf()
        if runner is not None:
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner, host: str, port: int, uds: Path | str | None) -> int:
        loop, manager = asyncio.get_running_loop(), runner.server
        if manager is None:
            raise RuntimeError("the runner was not set up")

        def connection() -> Connection:
            return Connection(manager, self._door, loop=loop)

        try:
            tcp = await loop.create_server(connection, host, port, backlog=_BACKLOG)
            self._listening.append(tcp)
            for each in _again(tcp.sockets):
                self._listening.append(await loop.create_server(connection, sock=each, backlog=_BACKLOG))
        except OSError as error:
            where = f"{host}:{port}"
            raise _unheard(error, field="port", value=where, allowed="a free port") from error
        if uds is not None and str(uds):
            path = Path(uds)
            _forget(path)
            try:
                unix = await loop.create_unix_server(connection, str(path), backlog=_BACKLOG)
                self._listening.append(unix)
                for each in _again(unix.sockets):
                    self._listening.append(await loop.create_unix_server(connection, sock=each, backlog=_BACKLOG))
                self._uds = path, _inode(path)
            except OSError as error:
                raise _unheard(error, field="uds", value=str(path)) from error
        return int(tcp.sockets[0].getsockname()[1])

    def _deaf(self) -> None:
        listening, self._listening = self._listening, []
        for server in listening:
            server.close()
        uds, self._uds = self._uds, None
        if uds is not None and _inode(uds[0]) == uds[1]:
            uds[0].unlink()

    def _counted(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._in_flight += 1
            self._idle.clear()
            if isinstance(request.protocol, Connection):
                request.protocol.begin(request.content)
            try:
                return await handler(request)
            finally:
                self._in_flight -= 1
                if self._in_flight == 0:
                    self._idle.set()

        return count

    async def _on_prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        if isinstance(response, web.HTTPException) and response.status >= 400:
            # aiohttp's own, raised before any middleware.
            shaped = error_response(response, shape_of(request.path))
            response.body = shaped.body
            response.headers[hdrs.CONTENT_TYPE] = shaped.headers[hdrs.CONTENT_TYPE]
            response.headers[hdrs.CONTENT_LENGTH] = str(shaped.content_length)
        headers = response.headers
        headers.pop(hdrs.SERVER, None)
        known = request.get(REQUEST_ID)
        if known is not None:
            headers[Header.REQUEST_ID] = known
        if self._stopping or request.content.exception() is not None:
            response.force_close()
            headers[hdrs.CONNECTION] = "close"


def _again(sockets: Iterable[socket.socket]) -> list[socket.socket]:
    """The same listening sockets, each often enough for `_ACCEPTS`."""
    return [socket.socket(fileno=os.dup(each.fileno())) for each in sockets for _ in range(_ACCEPTS - 1)]


def _unheard(error: OSError, *, field: str, value: str, allowed: str | None = None) -> Refused:
    why = "in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return Refused(f"cannot listen: {why}", kind=Refusal.CONFLICT, field=field, value=value, allowed=allowed)


def _inode(path: Path) -> int:
    """Which file is at `path`; -1 for none."""
    try:
        return path.lstat().st_ino
    except OSError:
        return -1


def _forget(path: Path) -> None:
    """Remove the socket that a dead process left: its file outlives it.

    Raises:
        Refused: it is no socket, or one that somebody listens on.

    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Refused(
            "there is a file that is no socket",
            kind=Refusal.CONFLICT,
            field="uds",
            value=str(path),
            allowed="a free path",
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        failed = probe.connect_ex(str(path))
    if failed in (0, errno.EAGAIN):
        raise Refused(
            "cannot listen: in use", kind=Refusal.CONFLICT, field="uds", value=str(path), allowed="a free path"
        )
    path.unlink()
