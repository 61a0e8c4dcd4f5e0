"""What stands between a client's socket and the broker behind: limits, keepalive, and an end that always comes.

amqtt reads whatever length a header announces, ignores the keepalive and waits for ever on a reader that does not read. Here a
packet above the limit, silence beyond one and a half keepalives (section 3.1.2.10) and a stuck peer each end the connection.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable

from amqtt.adapters import ReaderAdapter, WriterAdapter

MAX_PACKET = 5 * 1024 * 1024
MAX_BUFFERED = 16 * 1024 * 1024
IDLE_S = 600.0
STUCK_S = 10.0
PAUSE_S = 0.02


class GuardedReader(ReaderAdapter):  # type: ignore[misc]
    """Hands out `first` (the judged CONNECT), then what the client sends."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        first: bytes,
        *,
        keepalive: int,
        is_busy: Callable[[], bool],
        cut: Callable[[], None],
    ) -> None:
        """`is_busy` says whether the broker has so much to deliver that nobody should send more; `cut` ends the connection."""
        self._reader = reader
        self._cut = cut
        self._first = first
        self._silence = keepalive * 1.5 if keepalive else IDLE_S
        self._is_busy = is_busy
        self._ended = False

    async def read(self, n: int = -1) -> bytes:
        """Exactly `n` bytes, or none once the connection has ended."""
        if self._first:
            taken, self._first = self._first[:n], self._first[n:]
            return taken
        # Also the one point where a new connection's handler gets to run before its first packet is read.
        await asyncio.sleep(0)
        while n == 1 and self._is_busy() and not self._ended:  # noqa: ASYNC110 - the backlog has no event to wait for
            await asyncio.sleep(PAUSE_S)
        if self._ended or not 0 < n <= MAX_PACKET:
            self.end()
            return b""
        try:
            async with asyncio.timeout(self._silence):
                return await self._reader.readexactly(n)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError, OSError):
            self.end()
            return b""

    def feed_eof(self) -> None:
        """As `end`."""
        self.end()

    def end(self) -> None:
        """Let nothing more be read; the broker then takes the client for gone and publishes its will."""
        if not self._ended:
            self._ended = True
            self._cut()


class GuardedWriter(WriterAdapter):  # type: ignore[misc]
    """Writes to a client that may be slow, but not for ever."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._closed = False

    def write(self, data: bytes) -> None:
        """Queue `data`; a client that lets too much pile up is cut off."""
        if self._closed:
            return
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > MAX_BUFFERED:
            self.abort()

    async def drain(self) -> None:
        """Wait until the client has read enough.

        Raises:
            ConnectionResetError: it did not in time, or is gone.

        """
        if self._closed:
            raise ConnectionResetError
        try:
            async with asyncio.timeout(STUCK_S):
                await self._writer.drain()
        except (TimeoutError, OSError) as error:
            self.abort()
            raise ConnectionResetError from error

    def get_peer_info(self) -> tuple[str, int] | None:
        """Address and port of the client."""
        peer = self._writer.get_extra_info("peername")
        return (peer[0], peer[1]) if peer else None

    def get_ssl_info(self) -> ssl.SSLObject | None:
        """TLS ends in front of this broker."""
        return None

    async def close(self) -> None:
        """Flush what a willing client still reads, then close."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(1.0):
                await self._writer.drain()
        self._writer.close()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()
                return
        self._writer.transport.abort()

    def abort(self) -> None:
        """Close at once."""
        self._closed = True
        self._writer.transport.abort()
