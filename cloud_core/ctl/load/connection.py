"""One keep-alive connection of a load: bytes out, one response back, no task and no timer of its own.

A load shares the processor with the server it measures, so a request costs one write, one read and two calls.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import NamedTuple, cast

from cloud_core.ctl.load.response import NoResponse, Response, ResponseReader

CONNECT_S = 10.0


class Address(NamedTuple):
    """Where a server listens: a host and port, perhaps with TLS, or a Unix socket."""

    host: str
    port: int
    tls: bool = False
    socket: str = ""


Ended = Callable[["Connection", Response | None], None]
"""Called when the request in flight ended: with its response, or None where the connection broke."""


class Connection(asyncio.Protocol):
    """`since` is when the request in flight began, by `time.perf_counter`; the load's own business otherwise."""

    __slots__ = ("_ended", "_reader", "_transport", "busy", "open", "since")

    def __init__(self, ended: Ended) -> None:
        self.since = 0.0
        self.busy = False
        self.open = False
        self._ended = ended
        self._reader = ResponseReader()
        self._transport: asyncio.Transport | None = None

    def send(self, request: bytes, since: float) -> None:
        """Send `request`, which began at `since` for whoever counts; nothing may be in flight."""
        self.since, self.busy = since, True
        if self._transport is not None:
            self._transport.write(request)

    def close(self) -> None:
        """End it at once; a request in flight ends with None."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)
        self.open = True

    def data_received(self, data: bytes) -> None:
        """A response, or a part of one."""
        try:
            response = self._reader.feed(data)
        except NoResponse:
            self.close()
            return
        if response is not None:
            self._end(response)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it went
        """It is gone."""
        self.open = False
        self._transport = None
        if self.busy:
            try:
                response = self._reader.end()
            except NoResponse:
                response = None
            self._end(response)

    def _end(self, response: Response | None) -> None:
        if response is not None and response.close:
            self.open = False
            self.close()
        if not self.busy:
            self.close()
            return
        self.busy = False
        self._ended(self, response)


async def connect(address: Address, ended: Ended) -> Connection:
    """A new connection.

    Raises:
        OSError: nobody listens there, or not in time.

    """
    loop = asyncio.get_running_loop()

    def made() -> Connection:
        return Connection(ended)

    async with asyncio.timeout(CONNECT_S):
        if address.socket:
            _, connection = await loop.create_unix_connection(made, address.socket)
        else:
            context = ssl.create_default_context() if address.tls else None
            _, connection = await loop.create_connection(made, address.host, address.port, ssl=context)
    return connection


def clock() -> float:
    """Seconds on the clock all of a load is timed by: uvloop's own has steps of a millisecond."""
    return time.perf_counter()
