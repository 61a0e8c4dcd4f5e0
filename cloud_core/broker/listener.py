"""The broker's front door: reads CONNECT within limits, has it judged, ends an older connection of the same client, lets it in."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple

from cloud_core.broker import connect as packet
from cloud_core.broker.authenticate import CODES, Authenticator, Verdict
from cloud_core.broker.connect import Connect
from cloud_core.broker.embedded import LISTENER, EmbeddedBroker
from cloud_core.broker.principal import CONTROL_PLANE, principal_of
from cloud_core.broker.streams import GuardedReader, GuardedWriter
from shared.io.logs import Log
from shared.protocol.errors import Refusal, Refused, Transient

CONNECT_S = 10.0
MAX_CONNECTIONS = 20_000
UNKNOWN_PROTOCOL = 1
REVOKED_EVERY_S = 5.0
MALFORMED, FULL = "malformed", "full"


class _Live(NamedTuple):
    username: str
    reader: GuardedReader
    ended: asyncio.Event


class Listener:
    """Owner of the connections that were let in."""

    def __init__(
        self, broker: EmbeddedBroker, authenticator: Authenticator, *, log: Log, count: Callable[[str], None]
    ) -> None:
        """`count` is told each verdict on a connection attempt."""
        self._broker = broker
        self._authenticator = authenticator
        self._log = log
        self._count = count
        self._live: dict[str, _Live] = {}
        self._open = 0
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """How many clients are in."""
        return len(self._live)

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, which may have been 0 for any free one."""
        self._server = await asyncio.start_server(self._connected, host, port, limit=256 * 1024)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Accept nobody any more and end all connections."""
        if self._server is not None:
            self._server.close()
        waiting = [live.ended for live in self._live.values()]
        for live in tuple(self._live.values()):
            live.reader.end()
        for ended in waiting:
            await ended.wait()

    async def watch_revocations(self) -> None:
        """End the connections of devices that were deleted or enrolled anew, within seconds, for ever."""
        while True:
            try:
                good = await self._authenticator.refresh()
            except Transient as error:
                self._log.warning("credentials not refreshed", error=error.message)
            else:
                for client_id, live in tuple(self._live.items()):
                    if live.username not in good and principal_of(live.username) != CONTROL_PLANE:
                        self._log.info("connection revoked", client=client_id)
                        live.reader.end()
            await asyncio.sleep(REVOKED_EVERY_S)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        guarded = GuardedWriter(writer)
        try:
            if self._open > MAX_CONNECTIONS:
                self._count(FULL)
                return
            connect = await self._admitted(reader, writer)
            if connect is not None:
                await self._serve(connect, reader, writer, guarded)
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            self._count(MALFORMED)
        finally:
            self._open -= 1
            await guarded.close()

    async def _admitted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Connect | None:
        try:
            async with asyncio.timeout(CONNECT_S):
                connect = packet.parse(await _body(reader))
        except Refused as error:
            self._count(MALFORMED)
            self._log.warning("connection refused", field=error.field, error=error.message)
            if error.kind is Refusal.UNSUPPORTED:
                writer.write(packet.connack(UNKNOWN_PROTOCOL))
            return None
        verdict, _ = await self._authenticator.judge(connect)
        self._count(verdict.value)
        if verdict is not Verdict.ACCEPTED:
            user = (connect.username or "")[:130]
            self._log.warning("connection refused", why=verdict.value, user=user, client=connect.client_id[:130])
            writer.write(packet.connack(CODES[verdict]))
            return None
        return connect

    async def _serve(
        self, connect: Connect, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, guarded: GuardedWriter
    ) -> None:
        while (older := self._live.get(connect.client_id)) is not None:
            self._log.info("connection taken over", client=connect.client_id)
            older.reader.end()
            await older.ended.wait()
        front = GuardedReader(
            reader,
            packet.encode(connect),
            keepalive=connect.keepalive,
            is_busy=lambda: self._broker.is_busy,
            cut=writer.transport.abort,
        )
        live = _Live(connect.username or "", front, asyncio.Event())
        self._live[connect.client_id] = live
        try:
            await self._broker.external_connected(front, guarded, LISTENER)
        finally:
            del self._live[connect.client_id]
            live.ended.set()


async def _body(reader: asyncio.StreamReader) -> bytes:
    """What follows the fixed header of the first packet, which must be a CONNECT of a bearable size."""
    kind = (await reader.readexactly(1))[0]
    if kind != packet.CONNECT:
        raise Refused("the first packet is no CONNECT", field="type", value=kind)
    length = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > 21:
            raise Refused("malformed length", field="length")
    if length > packet.MAX_BYTES:
        raise Refused("CONNECT too large", field="length", value=length, allowed=f"{packet.MAX_BYTES} B")
    return await reader.readexactly(length)


async def stop_broker(listener: Listener, broker: EmbeddedBroker) -> None:
    """End every connection, then the broker."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(3.0):
            await listener.stop()
    await broker.shutdown()
