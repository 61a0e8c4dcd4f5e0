"""aiomqtt's client with what it lacks: counted overflow, a close without DISCONNECT, an open that leaves no socket behind."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.reasoncodes import ReasonCode


class Will(NamedTuple):
    """What the broker says for us when the connection is lost."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


class Server(NamedTuple):
    """Where and as whom; the client id is the username unless given. No username is nobody in particular. `keepalive` in seconds."""

    host: str
    port: int
    username: str
    password: str
    client_id: str = ""
    keepalive: int = 15
    tls: ssl.SSLContext | None = None


class Connection(aiomqtt.Client):
    """One connection. aiomqtt drops silently where its queue is full: here the drop is told to `on_overflow`."""

    def __init__(
        self, server: Server, will: Will | None, *, queue_limit: int, timeout: float, on_overflow: Callable[[str], None]
    ) -> None:
        quiet = logging.Logger("mqtt", level=logging.CRITICAL)
        super().__init__(
            server.host,
            server.port,
            username=server.username or None,
            password=server.password or None,
            identifier=server.client_id or server.username,
            protocol=aiomqtt.ProtocolVersion.V311,
            clean_session=True,
            keepalive=server.keepalive,
            timeout=timeout,
            tls_context=server.tls,
            will=aiomqtt.Will(will.topic, will.payload, will.qos, will.retain) if will is not None else None,
            max_queued_incoming_messages=queue_limit,
            max_queued_outgoing_messages=queue_limit,
            # An acknowledgement and an answer are two small writes: the second must not wait for the broker's delayed ACK.
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            logger=quiet,
        )
        self.pending_calls_threshold = queue_limit
        self._on_overflow = on_overflow

    @property
    def lost(self) -> asyncio.Future[None]:
        """Done once the connection is gone; its exception, if any, says why."""
        return self._disconnected

    async def open(self) -> None:
        """Connect.

        Raises:
            aiomqtt.MqttError: not reachable, refused, or no answer in time.

        """
        opening = asyncio.create_task(self.__aenter__(), name="mqtt-open")
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            # A thread of aiomqtt's may be inside connect(): let it end, so that no socket outlives us.
            await asyncio.wait({opening})
            opening.exception()
            self.cut()
            raise
        except aiomqtt.MqttError:
            self.cut()
            raise

    async def granted(self, filters: Sequence[str], *, qos: int) -> list[int]:
        """Subscribe; the broker's return code for each filter (MQTT 3.1.1, 3.9.3)."""
        codes: list[int | ReasonCode] = list(await self.subscribe([(text, qos) for text in filters]))
        return [code if isinstance(code, int) else int(code.value) for code in codes]

    def queue(self, topic: str, payload: bytes) -> None:
        """Send at QoS 0 as soon as the socket takes it; without a connection it is lost, as such messages are."""
        self._client.publish(topic, payload, 0)

    async def receive(self) -> aiomqtt.Message:
        """The next message; waits for ever once the connection is lost."""
        return await self._queue.get()

    async def shut(self) -> None:
        """DISCONNECT, where there still is a connection; the broker then forgets the will."""
        try:
            await self.__aexit__(None, None, None)
        except aiomqtt.MqttError:
            self.cut()
        self._settle()

    def cut(self) -> None:
        """Close the socket without DISCONNECT, so that the broker publishes the will."""
        stream = cast("socket.socket | None", self._client.socket())
        with contextlib.suppress(OSError):
            if stream is not None:
                stream.shutdown(socket.SHUT_RDWR)
            while self._client.socket() is not None:  # paho reads what came before the end, then closes its socket
                self._client.loop_read()
        self._settle()

    def _settle(self) -> None:
        if not self._disconnected.done():
            self._disconnected.set_result(None)
        self._disconnected.exception()  # read, so that asyncio does not report it as never retrieved

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        if self._queue.full():
            self._on_overflow(message.topic)
            return
        super()._on_message(client, userdata, message)
