"""amqtt's broker with what it leaves open closed.

amqtt 0.12 has no authorisation of wills, takes a session over before it has authenticated anybody, sends every retained message to
every newcomer, walks its table of subscriptions while others change it, and keeps half-dead connections. The first two are
settled before it sees a connection (`listener.py`); the rest is overridden here. Retained messages live in memory only: the loops send the
levels again after every (re)connection.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from amqtt.broker import Broker
from amqtt.contexts import Action, BrokerConfig, ListenerConfig, ListenerType
from amqtt.errors import AMQTTError
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.session import Session

from cloud_core.broker.principal import Act, may, principal_of
from shared.protocol.topics import parse

LISTENER = "default"
BACKLOG = 2000
"""Messages waiting for delivery above which clients are not read from."""
REMEMBERED = 50_000
DELIVERED, UNDELIVERED, DENIED = "delivered", "undelivered", "denied"


class _Question(NamedTuple):
    username: str | None
    act: Act
    topic: str


class EmbeddedBroker(Broker):  # type: ignore[misc]
    """The MQTT 3.1.1 broker behind `Listener`, which has authenticated every connection it passes in."""

    def __init__(self, count: Callable[[str], None]) -> None:
        """`count` is told what became of each message and subscription."""
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.ERROR)
        listener = ListenerConfig(type=ListenerType.EXTERNAL, bind="external")
        super().__init__(BrokerConfig(listeners={LISTENER: listener}, plugins={}))
        self._tell = count
        self._answers: dict[_Question, bool] = {}
        self._wildcards: set[str] = set()

    @property
    def is_busy(self) -> bool:
        """Whether so much waits for delivery that nobody should send more."""
        return bool(self._broadcast_queue.qsize() > BACKLOG or len(self._tasks_queue) > BACKLOG)

    def allows(self, username: str | None, act: Act, topic: str) -> bool:
        """The one answer to who may do what; remembered, since it is asked for every delivery."""
        question = _Question(username, act, topic)
        if question not in self._answers:
            if len(self._answers) >= REMEMBERED:
                self._answers.clear()
            principal = principal_of(username or "")
            self._answers[question] = principal is not None and may(principal, act, topic)
        return self._answers[question]

    async def add_subscription(self, subscription: tuple[str, int], session: Session) -> int:
        """Subscribe `session`; 0x80 where it may not."""
        code: int = await super().add_subscription(subscription, session)
        if code < 0x80 and "+" in subscription[0]:
            self._wildcards.add(subscription[0])
        return code

    async def retain_message(
        self, source_session: Session | None, topic_name: str | None, data: bytes | None, qos: int | None = None
    ) -> None:
        """Keep a message for later subscribers, only on the topics that are levels."""
        where = parse(topic_name or "")
        if where is not None and where.row.retained:
            await super().retain_message(source_session, topic_name, data, qos)

    async def _authenticate(self, session: Session, _: ListenerConfig) -> bool:
        return principal_of(session.username or "") is not None

    async def _topic_filtering(self, session: Session, topic: str, action: Action) -> bool:
        allowed = self.allows(session.username, Act(action.value), topic)
        if not allowed:
            self._tell(DENIED)
        return allowed

    async def _handle_message_delivery(
        self, client_session: Session, handler: BrokerProtocolHandler, wait_deliver: asyncio.Future[Any]
    ) -> bool:
        if not await super()._handle_message_delivery(client_session, handler, wait_deliver):
            # An impossible topic: end the connection whole, will included, instead of leaving half of it.
            await handler.handle_connection_closed()
        return True

    async def _run_broadcast(self, running_tasks: deque[asyncio.Task[Any]]) -> None:
        message = await self._broadcast_queue.get()
        topic: str = message["topic"]
        self._wildcards &= self._subscriptions.keys()
        filters = [topic, *(text for text in self._wildcards if self._matches(topic, text))]
        seen: set[str] = set()
        for text in filters:
            for session, qos in tuple(self._subscriptions.get(text, ())):
                if session.client_id in seen or session.transitions.state != "connected":
                    continue
                seen.add(session.client_id)
                handler = self._get_handler(session)
                if handler is None or not self.allows(session.username, Act.RECEIVE, topic):
                    continue
                delivery = self._deliver(handler, topic, message["data"], qos, retain=False)
                running_tasks.append(asyncio.create_task(delivery, name="broker-delivery"))

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        text, qos = subscription
        if all(one.client_id != session.client_id for one, _ in self._subscriptions.get(text, ())):
            return  # amqtt asks this for every filter anybody has
        handler = self._get_handler(session)
        if handler is None:
            return
        for topic, kept in tuple(self._retained_messages.items()):
            if self._matches(topic, text) and self.allows(session.username, Act.RECEIVE, topic):
                delivery = self._deliver(handler, topic, kept.data, min(qos, kept.qos or 0), retain=True)
                self._tasks_queue.append(asyncio.create_task(delivery, name="broker-delivery"))

    async def _deliver(
        self, handler: BrokerProtocolHandler, topic: str, data: bytes, qos: int, *, retain: bool
    ) -> None:
        """Send one message to one client; what cannot be delivered is counted, and its level sent again by its owner."""
        try:
            await handler.mqtt_publish(topic, data, qos, retain)
        except (AMQTTError, TimeoutError, OSError, AttributeError, asyncio.CancelledError):
            # AttributeError: amqtt's handler lost its session between two awaits.
            self._tell(UNDELIVERED)
        else:
            self._tell(DELIVERED)
