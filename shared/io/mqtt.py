"""One MQTT connection that is always being kept: connect, announce, dispatch, and again after a loss, for ever.

Invariants:

* sessions are clean and nothing relies on a PUBACK for durability: what must survive is re-sent by its owner after `on_connected`;
* the will is made anew for every connection, so that it carries that connection's epoch;
* no queue is unbounded: what does not fit is dropped and counted as `overflow`, and the level it belonged to is sent again;
* bytes from the wire never end the task: a handler's `Refused` or `Transient` is counted and logged, the message dropped. Any other
  error is a bug and ends `run`, and the connection is then cut without a DISCONNECT, so that the broker speaks the will.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

import aiomqtt

from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.mqtt_connection import Connection, Server, Will
from shared.protocol.errors import Refusal, Refused, Transient, Unavailable
from shared.protocol.topics import Parsed, parse

__all__ = ["Count", "Handler", "MqttLink", "Outcome", "Received", "Server", "Will", "backoff"]

BACKOFF_BASE = 0.5
BACKOFF_CAP = 10.0
SUBSCRIPTION_REFUSED = 0x80
AT_ONCE = 100
"""Messages at QoS 0 that are queued before the socket is waited for."""
T = TypeVar("T")


class Outcome(StrEnum):
    """What became of a received message; the label the owner counts by."""

    HANDLED = "handled"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown-topic"
    OVERFLOW = "overflow"


class Received(NamedTuple):
    """One message: which row and whose, the concrete topic, the bytes, and whether the broker had it retained."""

    where: Parsed
    topic: str
    payload: bytes
    retained: bool


Handler = Callable[[Received], Awaitable[None]]
Count = Callable[[str, Outcome], None]


def backoff(attempt: int, *, u: float, base: float = BACKOFF_BASE, cap: float = BACKOFF_CAP) -> float:
    """Seconds to wait before connection attempt `attempt` (0, 1, ...): full jitter, `u` drawn evenly from [0, 1)."""
    return u * min(cap, base * 2.0 ** min(attempt, 32))


class MqttLink:
    """Owner of one connection (MQTT 3.1.1, clean session)."""

    def __init__(
        self,
        server: Server,
        *,
        will: Callable[[], Awaitable[Will | None]],
        on_connected: Callable[[], Awaitable[None]],
        handlers: Mapping[str, Handler],
        count: Count,
        log: Log,
        clock: Clock,
        draw: Callable[[], float],
        queue_limit: int = 1000,
        timeout: float = 5.0,
    ) -> None:
        """See the invariants above.

        Args:
            server: where and as whom.
            will: called before every connection.
            on_connected: called on every connection before any message is dispatched: subscribe, then say birth.
            handlers: by the name of the topic's row; other rows and unknown topics are counted and dropped.
            count: told the row's name (or "unknown") and what became of each message.
            log: the program's logger.
            clock: to tell a lasting connection from a flapping one.
            draw: random numbers in [0, 1) for the jitter.
            queue_limit: how many received messages may wait, and how many published ones may be unacknowledged.
            timeout: seconds for each answer of the broker.

        """
        self._server = server
        self._will = will
        self._on_connected = on_connected
        self._handlers = handlers
        self._count = count
        self._log = log
        self._clock = clock
        self._draw = draw
        self._queue_limit = queue_limit
        self._timeout = timeout
        self._connection: Connection | None = None
        self._up = asyncio.Event()
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._connection is not None

    async def wait_connected(self) -> None:
        """Return once there is a connection that was announced."""
        await self._up.wait()

    async def run(self) -> None:
        """Keep the connection until `close`; raises only bugs."""
        self._ended.clear()
        attempt = 0
        try:
            while not self._closing.is_set():
                began = self._clock.monotonic()
                await self._one_connection(attempt)
                lasted = self._clock.monotonic() - began
                # Only a connection that lasted resets the delay: two agents of one identity must not throw each other out at full speed.
                attempt = 0 if lasted > BACKOFF_CAP else attempt + 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff(max(0, attempt - 1), u=self._draw())):
                        await self._closing.wait()
        finally:
            self._ended.set()

    async def subscribe(self, *filters: str, qos: int = 1) -> None:
        """Subscribe to `filters`.

        Raises:
            Transient: no connection, or it was lost.
            Refused: the broker does not allow one of them.

        """
        connection = self._live()
        codes = await self._answered(connection, connection.granted(filters, qos=qos))
        for text, code in zip(filters, codes, strict=False):
            if code >= SUBSCRIPTION_REFUSED:
                raise Refused("the broker refuses the subscription", kind=Refusal.FORBIDDEN, field="topic", value=text)

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Send one message; with `qos` 1 return after the broker's PUBACK.

        Raises:
            Transient: no connection, it was lost, too many are waiting, or no PUBACK came in time. It may have arrived all the same.

        """
        connection = self._live()
        await self._answered(connection, connection.publish(topic, payload, qos=qos, retain=retain))

    async def publish_all(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send these (topic, payload) at QoS 0, in order; return once the last is on its way.

        Raises:
            Transient: no connection, or it was lost. Some may have arrived.

        """
        connection = self._live()
        for some in (messages[i : i + AT_ONCE] for i in range(0, len(messages), AT_ONCE)):
            *before, last = some
            for each in before:
                connection.queue(*each)
            # They leave in order: waiting for the last of some bounds what is queued, and nobody waits for each.
            await self._answered(connection, connection.publish(*last, qos=0))

    async def close(self, farewell: Callable[[], Awaitable[None]] | None = None) -> None:
        """Say goodbye (`farewell` publishes what the owner wants said), disconnect cleanly, end `run`."""
        if farewell is not None and self.connected:
            try:
                await farewell()
            except Transient as error:
                self._log.info("farewell not said", error=error.message)
        self._closing.set()
        await self._ended.wait()

    def _live(self) -> Connection:
        if self._connection is None:
            raise Transient("not connected to the broker", why=Unavailable.UNREACHABLE)
        return self._connection

    async def _answered(self, connection: Connection, call: Coroutine[Any, Any, T]) -> T:
        """Await the broker's answer to `call`, at most until the connection is lost."""
        calling = asyncio.create_task(call, name="mqtt-call")
        try:
            await _any(calling, connection.lost)
            if not calling.done():
                raise Transient("the connection to the broker was lost", why=Unavailable.UNREACHABLE)
            return calling.result()
        except aiomqtt.MqttError as error:
            raise Transient(f"the broker did not answer: {error}", why=Unavailable.UNREACHABLE) from error
        finally:
            calling.cancel()

    async def _one_connection(self, attempt: int) -> None:
        """Connect, announce, dispatch until the connection is lost or `close` is asked for."""
        said = self._log.warning if attempt == 0 else self._log.debug
        try:
            will = await self._will()
        except Transient as error:
            said("no connection attempt", error=error.message)
            return
        connection = Connection(
            self._server,
            will,
            queue_limit=self._queue_limit,
            timeout=self._timeout,
            on_overflow=self._overflowed,
        )
        try:
            await connection.open()
        except aiomqtt.MqttError as error:
            said("broker not reachable", host=self._server.host, port=self._server.port, error=str(error))
            return
        self._connection = connection
        try:
            await self._serve(connection)
        except (Transient, Refused) as error:
            # Only announcing raises these: the broker went away or does not let us speak; both may mend.
            self._log.warning("connection not announced", error=error.message)
        except BaseException:
            self._forget()
            connection.cut()
            raise
        self._forget()
        await connection.shut()

    def _overflowed(self, topic: str) -> None:
        where = parse(topic)
        self._count(where.row.name if where is not None else "unknown", Outcome.OVERFLOW)

    def _forget(self) -> None:
        self._up.clear()
        self._connection = None

    async def _serve(self, connection: Connection) -> None:
        await self._on_connected()
        self._log.info("connected to the broker", host=self._server.host, port=self._server.port)
        self._up.set()
        dispatching = asyncio.create_task(self._dispatch(connection), name="mqtt-dispatch")
        closing = asyncio.create_task(self._closing.wait(), name="mqtt-closing")
        try:
            await _any(dispatching, closing, connection.lost)
            if dispatching.done():
                dispatching.result()
            elif not closing.done():
                self._log.warning("connection to the broker lost", error=str(connection.lost.exception()))
        finally:
            closing.cancel()
            dispatching.cancel()
            await asyncio.gather(dispatching, closing, return_exceptions=True)

    async def _dispatch(self, connection: Connection) -> None:
        while True:
            message = await connection.receive()
            where = parse(message.topic.value)
            handler = self._handlers.get(where.row.name) if where is not None else None
            if where is None or handler is None:
                self._count("unknown", Outcome.UNKNOWN)
                self._log.warning("message on an unknown topic", topic=message.topic.value[:200])
                continue
            kind = where.row.name
            payload = message.payload if isinstance(message.payload, bytes) else b""
            try:
                await handler(Received(where, message.topic.value, payload, bool(message.retain)))
            except Refused as error:
                self._count(kind, Outcome.REFUSED)
                self._log.warning("message refused", topic=message.topic.value, field=error.field, error=error.message)
            except Transient as error:
                self._count(kind, Outcome.FAILED)
                self._log.warning("message not handled", topic=message.topic.value, error=error.message)
            else:
                self._count(kind, Outcome.HANDLED)


async def _any(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of them is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
