"""One client's connection to a server, which keeps a pace or ends.

Invariants:

* a body that comes, or an answer that goes, slower than `PIECE` bytes in `Limits.patience_s` ends its connection;
* a client sends no more than `AHEAD` bytes beyond a request that is still being answered;
* what is no HTTP gets one refusal and no line in the log, wherever it comes.
"""

import asyncio
from collections.abc import Callable

from aiohttp import StreamReader, hdrs, web
from aiohttp.http import HttpProcessingError

from shared.io.problems import refusal_without_path
from shared.io.web_door import PIECE, Door, Turnstile
from shared.protocol.errors import Refusal, Refused

AHEAD = 256 * 1024
"""Bytes a client may send after a request that is still being answered."""


class Connection(web.RequestHandler):
    """One connection, from its first byte to its last."""

    __slots__ = (
        "_ahead",
        "_answering",
        "_body",
        "_fed",
        "_held",
        "_inside",
        "_left",
        "_reading",
        "_received",
        "_writing",
        "door",
        "judged",
    )

    def __init__(self, manager: web.Server, door: Door, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=door.limits.idle_s,
            access_log=None,  # type: ignore[arg-type] # as its own AppRunner takes it
            # Encodings are undone by `read_body`, within its limit.
            auto_decompress=False,
        )
        self.door = door
        self.judged = False
        """The turnstile has looked at what is being answered, and let it in."""
        self._inside = False
        self._answering = False
        self._fed = False
        """The parser has been given more than what is answered."""
        self._body: StreamReader | None = None
        self._received = self._ahead = self._held = self._left = 0
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Come in, if there is a place."""
        self._inside = self.door.enter(self)
        if self._inside:
            super().connection_made(transport)
        else:
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give everything back."""
        if not self._inside:
            return
        self._inside = False
        self.door.leave(self)
        self._rest()
        if self._writing is not None:
            self._writing.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count, and parse."""
        if not self._inside:
            return
        self._received += len(data)
        if self._answering:
            self._ahead += len(data)
            if self._ahead > AHEAD:
                self.end()
                return
        if not self._fed and self.door.turnstile is not None and self._turned_away(data, self.door.turnstile):
            return
        self._fed = True
        super().data_received(data)
        if self._body is not None:
            self._look_for_garbage(self._body)

    def begin(self, body: StreamReader) -> None:
        """A request has come whose body may not all be here yet."""
        if body.is_eof():
            self.taken()
        else:
            self._body = body
            self._look_for_garbage(body)
            self._watch(body)

    def taken(self) -> None:
        """The request is here to its last byte."""
        self._body = None
        self._answering = True
        self.door.answering(self)

    def hold(self, size: int) -> None:
        """Have room for a body of `size` bytes until the answer is out.

        Raises:
            Overloaded: there is none.

        """
        more = max(0, size - PIECE) - self._held
        if more > 0 and self._inside:
            self.door.check(more)
            self.door.held += more
            self._held += more

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:
        """The answer is out (this is called at the end of each)."""
        self._fed = self._ahead > 0
        self.judged = False
        self._rest()
        if self._inside:
            self.door.waiting(self)
        super().log_access(request, response, time)

    def pause_writing(self) -> None:
        """The client reads slower than we write: from now on it has to keep a pace."""
        super().pause_writing()
        self._pace(self._written_slowly)

    def resume_writing(self) -> None:
        """It has read enough."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        super().resume_writing()

    def end(self) -> None:
        """End the connection now, whatever is under way on it."""
        transport = self.transport
        self.force_close()
        if transport is not None and transport.get_write_buffer_size():
            # Closing alone would wait until the client has read it all.
            transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What was no HTTP, or failed outside of every handler."""
        if status >= 500 or not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way")
        told = (message or "").strip().partition("\n")[0].rstrip(":")[:200]
        response = refusal_without_path(Refused(f"not HTTP that is understood: {told}", field="request"))
        # Or aiohttp would name itself and its version.
        response.headers[hdrs.SERVER] = "tideline"
        response.force_close()
        return response

    def _turned_away(self, data: bytes, turnstile: Turnstile) -> bool:
        """Whether `data`, at the beginning of a request, was answered unparsed; never while the client leaves answers unread."""
        transport = self.transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return False
        answer = turnstile(data)
        if not answer:
            self.judged = answer is not None
            return False
        transport.write(answer)
        # As after every answer: it is last in the row of those who are waited for, and may be silent as long again.
        self.door.answering(self)
        self.door.waiting(self)
        self._next_keepalive_close_time = self._loop.time() + self.door.limits.idle_s
        return True

    def _look_for_garbage(self, body: StreamReader) -> None:
        # aiohttp's parser forgets the body it cannot go on with, and queues the refusal behind the handler that waits for it.
        if self._messages and not body.is_eof() and body.exception() is None:
            body.set_exception(web.RequestPayloadError("the body is not chunked as HTTP has it"))

    def _rest(self) -> None:
        self._body = None
        self._answering = False
        self._ahead = 0
        self.door.held -= self._held
        self._held = 0
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _watch(self, body: StreamReader) -> None:
        self._reading = self._loop.call_later(self.door.limits.patience_s, self._read_slowly, body, self._received)

    def _read_slowly(self, body: StreamReader, before: int) -> None:
        self._reading = None
        transport = self.transport
        if transport is None or body.is_eof() or body.exception() is not None:
            return
        if self._received - before >= PIECE or not transport.is_reading():
            # Or it is we who do not read.
            self._watch(body)
            return
        body.set_exception(
            Refused(
                "the body came too slowly",
                kind=Refusal.TOO_SLOW,
                field="body",
                value=f"{self._received - before} bytes",
                allowed=f"at least {PIECE} in {self.door.limits.patience_s:g} s",
            )
        )
        # What may still come is not read, and the connection ends with the answer.
        self.close()
        body.feed_eof()

    def _pace(self, look: Callable[[], None]) -> None:
        if self.transport is not None:
            self._left = self.transport.get_write_buffer_size()
            self._writing = self._loop.call_later(self.door.limits.patience_s, look)

    def _written_slowly(self) -> None:
        self._writing = None
        if self.transport is None:
            return
        if self._left - self.transport.get_write_buffer_size() < PIECE:
            self.end()
        else:
            self._pace(self._written_slowly)
