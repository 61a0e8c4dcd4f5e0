"""The control plane's own presence on MQTT, and its one connection.

Retained on `tideline/v1/state`: online, with an epoch no connection had before; the will says offline with the same epoch, so
that a device ignores the will of a connection that was replaced.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.store import control
from cloud_core.store.database import write
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.mqtt import Count, Handler, MqttLink, Server, Will
from shared.protocol.envelope import seal
from shared.protocol.reported import STATE as KIND
from shared.protocol.reported import CloudState
from shared.protocol.topics import STATE, everyone


class CloudLink:
    """Owner of the leading loops' connection to the broker."""

    def __init__(
        self,
        server: Server,
        *,
        engine: AsyncEngine,
        handlers: Mapping[str, Handler],
        connected: Callable[[], None],
        count: Count,
        clock: Clock,
        log: Log,
        draw: Callable[[], float],
        shared: Mapping[str, str] | None = None,
    ) -> None:
        """`handlers` by row: all of them are subscribed to, for every tenant and device; `connected` is called on every connection.

        `shared`: rows whose messages are shared with other processes, and the name of the share.
        """
        self._engine = engine
        self._filters = tuple(everyone(row, share=(shared or {}).get(row, "")) for row in handlers)
        self._connected = connected
        self._clock = clock
        self._epoch = 0
        self._mqtt = MqttLink(
            server,
            will=self._will,
            on_connected=self._on_connected,
            handlers=handlers,
            count=count,
            log=log,
            clock=clock,
            draw=draw,
            queue_limit=10_000,
        )

    @property
    def publish(self) -> Callable[..., Awaitable[None]]:
        """`MqttLink.publish`."""
        return self._mqtt.publish

    @property
    def publish_all(self) -> Callable[[Sequence[tuple[str, bytes]]], Awaitable[None]]:
        """`MqttLink.publish_all`."""
        return self._mqtt.publish_all

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._mqtt.connected

    async def wait_connected(self) -> None:
        """Return once there is a connection."""
        await self._mqtt.wait_connected()

    async def run(self) -> None:
        """Keep the connection until `close`."""
        await self._mqtt.run()

    async def close(self) -> None:
        """Say offline, then go."""
        await self._mqtt.close(lambda: self._say(online=False))

    async def _will(self) -> Will:
        async with write(self._engine) as connection:
            self._epoch = await control.next_link_epoch(connection)
        return Will(STATE, self._payload(online=False), retain=True)

    async def _on_connected(self) -> None:
        await self._mqtt.subscribe(*self._filters)
        await self._say(online=True)
        self._connected()

    async def _say(self, *, online: bool) -> None:
        await self._mqtt.publish(STATE, self._payload(online=online), retain=True)

    def _payload(self, *, online: bool) -> bytes:
        now = self._clock.wall()
        return seal(KIND, CloudState(online=online, at=now, epoch=self._epoch), id=str(uuid.uuid4()), now=now)
