"""Inference over MQTT, on a connection of its own: nothing that integrators do there reaches the device's link to its cloud.

Invariants:

* at most `in_flight` requests are computed at once, and as many more are told that they are too many; the rest are dropped and counted;
* a retained request is nobody's: it would be answered again on every connection;
* an answer whose connection is gone is lost, as a HTTP client's is that went away.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.mqtt import Count, MqttLink, Received, Server
from shared.protocol.errors import Overloaded, Refused, TidelineError, Transient, Unavailable
from shared.protocol.topics import topic
from shared.serving.faces.mqtt import Letter, MqttFace

BUSY_S = 1.0
"""When those who were too many may come again."""


class Named(NamedTuple):
    """Whose topics these are."""

    tenant: str
    device: str


class MqttSite:
    """Owner of the integrators' connection and of the requests that came over it."""

    def __init__(
        self,
        server: Server,
        face: MqttFace,
        named: Callable[[], Awaitable[Named]],
        *,
        in_flight: int,
        count: Count,
        clock: Clock,
        log: Log,
        draw: Callable[[], float],
    ) -> None:
        """`named` waits until the device has a name; `draw` spreads connection attempts."""
        self._face = face
        self._named = named
        self._own = Named("", "")
        self._most = in_flight
        self._log = log
        self._computing = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self._running = False
        self._link = MqttLink(
            server,
            will=_no_will,
            on_connected=self._subscribe,
            handlers={"infer-request": self._take},
            count=count,
            log=log,
            clock=clock,
            draw=draw,
            # Messages are taken off the queue as they come; those that wait hold memory, so they are few.
            queue_limit=2 * in_flight,
        )

    @property
    def connected(self) -> bool:
        """Whether the integrators' broker is there."""
        return self._link.connected

    @property
    def under_way(self) -> int:
        """Requests that are not answered yet."""
        return len(self._tasks)

    async def run(self) -> None:
        """Keep the connection until `close`."""
        self._own = await self._named()
        if self._draining:
            return
        self._running = True
        await self._link.run()

    async def drain(self, seconds: float) -> bool:
        """Take nothing new, and wait for what is under way; whether it all ended."""
        self._draining = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        return not self._tasks

    async def close(self) -> None:
        """Give up what is still under way, and the connection."""
        self._draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._running:
            await self._link.close()

    async def _subscribe(self) -> None:
        await self._link.subscribe(
            topic("infer-request", tenant=self._own.tenant, device=self._own.device, free=("+",))
        )

    async def _take(self, message: Received) -> None:
        if message.retained:
            raise Refused("a request must not be retained", field="retain", value=True, allowed="retain off")
        if len(self._tasks) >= 2 * self._most:
            raise Transient("too many requests are under way", why=Unavailable.NOT_READY)
        letter = await self._face.open(message.payload)
        task = asyncio.create_task(self._serve(letter, message.where.free[0]), name="mqtt-request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, letter: Letter, model: str) -> None:
        try:
            turned = self._turned_away()
            if turned is not None:
                answer = self._face.turned_away(letter, turned)
            else:
                self._computing += 1
                try:
                    answer = await self._face.answer(letter, tenant=self._own.tenant, model=model)
                finally:
                    self._computing -= 1
            where = topic(
                "infer-response", tenant=self._own.tenant, device=self._own.device, free=(model, letter.client)
            )
            await self._link.publish(where, answer)
        except TidelineError as error:
            self._log.warning("request over MQTT not answered", model=model, error=error.message)

    def _turned_away(self) -> TidelineError | None:
        if self._draining:
            return Transient("the device is going away", why=Unavailable.NOT_READY, retry_after=BUSY_S)
        if self._computing >= self._most:
            text = "too many requests over MQTT are under way"
            return Overloaded(text, retry_after=BUSY_S, code="mqtt-in-flight")
        return None


async def _no_will() -> None:
    """Integrators are told nothing of the device's end: its answers stop coming."""
