"""A TCP relay with the round trip of a long way, for machines whose kernel has no netem; and one that may stop answering.

Bytes arrive in order, each the same time after they were sent; a new connection costs one more round trip, as a handshake does.
While it `swallows`, it accepts whatever comes and passes nothing on, in either direction: a cloud that is there and never answers.
"""

import asyncio
from collections import deque
from types import TracebackType
from typing import Self, cast

HOST = "127.0.0.1"


class SlowLink:
    """Listens on a free port of its own, and passes on to `upstream`, another port."""

    def __init__(self, *, round_trip: float, upstream: int = 0) -> None:
        """`round_trip` in seconds; `upstream` may be told later, before the first connection."""
        self.upstream = upstream
        self.one_way = round_trip / 2
        self.port = 0
        self.accepted = 0
        self._swallows = False
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()

    @property
    def swallows(self) -> bool:
        """Whether nothing is passed on."""
        return self._swallows

    @swallows.setter
    def swallows(self, is_so: bool) -> None:
        if self._swallows and not is_so:
            # What was under way has holes in it now.
            self._abort()
        self._swallows = is_so

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Pair(self).near, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        self._abort()
        # Transports end in the loop's next turn.
        await asyncio.sleep(0)

    def _abort(self) -> None:
        for pair in tuple(self._pairs):
            pair.end()


class _Pair:
    """The two ends of one connection."""

    def __init__(self, link: SlowLink) -> None:
        self.link = link
        self.near, self.far = _End(self), _End(self)
        self.opening: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self.link.accepted += 1
        self.link._pairs.add(self)  # noqa: SLF001 - one thing in two classes
        if not self.link.swallows:
            self.opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        await asyncio.sleep(2 * self.link.one_way)
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.far, HOST, self.link.upstream)
        except OSError:
            self.end()

    def other(self, end: "_End") -> "_End":
        return self.far if end is self.near else self.near

    def end(self) -> None:
        self.link._pairs.discard(self)  # noqa: SLF001
        if self.opening is not None:
            self.opening.cancel()
        for each in (self.near, self.far):
            if each.transport is not None:
                each.transport.abort()


class _End(asyncio.Protocol):
    """What is sent to `transport` waits in `due` for its time; None is the end of it. `early`: how much came before it was open."""

    def __init__(self, pair: _Pair) -> None:
        self.transport: asyncio.Transport | None = None
        self._pair = pair
        self._due: deque[bytes | None] = deque()
        self._early = 0
        self._opened = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are none by class.
        self.transport, self._opened = cast("asyncio.Transport", transport), True
        if self is self._pair.near:
            self._pair.begin()
        for _ in range(self._early):
            self._set_out()
        self._early = 0

    def data_received(self, data: bytes) -> None:
        self._pass_on(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it went
        self.transport = None
        self._pass_on(None)

    def _pass_on(self, data: bytes | None) -> None:
        if not self._pair.link.swallows:
            self._pair.other(self).take(data)

    def take(self, data: bytes | None) -> None:
        """The other end sent this."""
        self._due.append(data)
        if self._opened:
            self._set_out()
        else:
            self._early += 1

    def _set_out(self) -> None:
        # As many calls as there are pieces, all after the same time: each takes the oldest, so their order does not matter.
        asyncio.get_running_loop().call_later(self._pair.link.one_way, self._arrive)

    def _arrive(self) -> None:
        data = self._due.popleft()
        if self._pair.link.swallows or self.transport is None:
            return
        if data is None:
            self._pair.end()
        else:
            self.transport.write(data)
