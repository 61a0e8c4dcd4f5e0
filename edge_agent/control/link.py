"""The device's MQTT link: newest desired state in, reports and presence out.

Invariants:

* every connection has an epoch of its own, durable before it connects; the will carries it, so an old will is recognised;
* a report is the whole state; only the newest is sent, `REPORT_EVERY_S` apart at the least, and again on every connection, on
  command and when another control plane took over, so that a lost one is mended;
* nothing signed is acted on before its signature, addressee and expiry were checked.
"""

import asyncio
import hashlib
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from edge_agent.control.fetch_mqtt import MqttSource
from edge_agent.control.state import AgentState
from shared.io.clock import Clock
from shared.io.deflate import deflated
from shared.io.logs import Log
from shared.io.mqtt import Handler, MqttLink, Outcome, Received, Server, Will
from shared.io.signing import verify
from shared.protocol import commands, content, desired, pressure, reported, telemetry
from shared.protocol.commands import Command, CommandResult, SignedCommand, Verb
from shared.protocol.content import Get
from shared.protocol.desired import SignedGeneration
from shared.protocol.enrolment import EnrolAnswer
from shared.protocol.envelope import B, body_of, decoded, seal, unseal
from shared.protocol.errors import Refusal, Refused, Transient
from shared.protocol.pressure import Pressure
from shared.protocol.reported import Birth, CloudState, Death, Hardware, Reported
from shared.protocol.telemetry import Ack, Batch
from shared.protocol.topics import topic

REPORT_EVERY_S = 0.2
SUBSCRIPTIONS = ("desired", "command", "telemetry-ack", "state", "pressure")
REMEMBERED = 256
"""Command ids whose repetition is not answered twice."""


class Hooks(NamedTuple):
    """What the link hands on. `snapshot` gives the state to report; epoch, seq, time and digest are the link's."""

    generation: Callable[[SignedGeneration], Awaitable[None]]
    snapshot: Callable[[], Reported]
    acknowledged: Callable[[Ack], Awaitable[None]]
    pressure: Callable[[Pressure], None]
    connected: Callable[[], None]
    content: MqttSource | None = None


class Link:
    """Owner of the connection, its epoch and what was last reported."""

    def __init__(
        self,
        enrolment: EnrolAnswer,
        hooks: Hooks,
        *,
        state: AgentState,
        hardware: Hardware,
        agent_version: str,
        keepalive: int,
        clock: Clock,
        log: Log,
        draw: Callable[[], float],
        count: Callable[[str, Outcome], None],
    ) -> None:
        self._own = enrolment
        self._hooks = hooks
        self._state = state
        self._hardware = hardware
        self._agent_version = agent_version
        self._clock = clock
        self._log = log
        self._epoch = 0
        self._cloud: CloudState | None = None
        self._heard_at = 0.0
        self._changed = asyncio.Event()
        self._seen: deque[str] = deque(maxlen=REMEMBERED)
        handlers: dict[str, Handler] = {
            "desired": self._on_desired,
            "command": self._on_command,
            "telemetry-ack": self._on_ack,
            "state": self._on_state,
            "pressure": self._on_pressure,
        }
        if hooks.content is not None:
            handlers |= dict.fromkeys(content.KINDS.values(), hooks.content.received) | dict.fromkeys(
                content.KINDS, _echo
            )
        broker = enrolment.broker
        self._mqtt = MqttLink(
            Server(broker.host, broker.port, broker.username, broker.password, keepalive=keepalive),
            will=self._will,
            on_connected=self._on_connected,
            handlers=handlers,
            count=count,
            log=log,
            clock=clock,
            draw=draw,
        )

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._mqtt.connected

    @property
    def epoch(self) -> int:
        """Of the newest connection."""
        return self._epoch

    @property
    def control_plane_online(self) -> bool:
        """Whether the control plane says it is there, on a connection that stands."""
        return self.connected and self._cloud is not None and self._cloud.online

    def silent_for(self, since: float) -> float:
        """Seconds since the control plane was last heard; `since` (Unix seconds) counts where it never was."""
        if self.control_plane_online:
            return 0.0
        return max(0.0, self._clock.wall() - max(self._heard_at, since))

    def changed(self) -> None:
        """What is reported may have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Keep the connection until `close`."""
        await self._mqtt.run()

    async def report_forever(self) -> None:
        """Send the newest report whenever there is one to send."""
        while True:
            await self._changed.wait()
            await self._mqtt.wait_connected()
            self._changed.clear()
            try:
                await self._report()
            except Transient as error:
                # Every connection reports anew; on this one, try again soon.
                self._log.debug("report not sent", error=error.message)
                self._changed.set()
            await asyncio.sleep(REPORT_EVERY_S)

    async def telemetry(self, batch: Batch) -> None:
        """Send one batch, compressed.

        Raises:
            Transient: no connection.

        """
        # The last sample's number names the batch as well as anything would, in fewer bytes.
        plain = seal(telemetry.KIND, batch, id=str(batch.samples[-1].seq), now=round(self._clock.wall(), 3))
        await self._mqtt.publish(self._topic("telemetry"), deflated(plain))

    async def ask(self, row: str, get: Get) -> None:
        """Ask for parts of content.

        Raises:
            Transient: no connection.

        """
        await self._publish(row, row, get)

    async def close(self) -> None:
        """Say that we go, ourselves: the broker forgets the will of a clean goodbye."""

        async def farewell() -> None:
            await self._publish("death", reported.DEATH, Death(epoch=self._epoch))

        await self._mqtt.close(farewell)

    async def _will(self) -> Will:
        self._epoch = await asyncio.to_thread(self._state.next_epoch)
        return Will(self._topic("death"), self._sealed(reported.DEATH, Death(epoch=self._epoch)))

    async def _on_connected(self) -> None:
        await self._mqtt.subscribe(*(self._topic(name) for name in SUBSCRIPTIONS))
        if self._hooks.content is not None:
            # Each part is asked for until it is there: acknowledging it to the broker too would say nothing more.
            await self._mqtt.subscribe(*(self._topic(row, free=("+",)) for row in content.KINDS.values()), qos=0)
        birth = Birth(
            epoch=self._epoch,
            at=self._clock.wall(),
            agent_version=self._agent_version,
            hardware=self._hardware,
            state_digest=digest_of(self._hooks.snapshot()),
        )
        await self._publish("birth", reported.BIRTH, birth)
        self.changed()
        if self._hooks.content is not None:
            self._hooks.content.connected()
        self._hooks.connected()

    async def _report(self) -> None:
        snapshot = self._hooks.snapshot()
        seq = await asyncio.to_thread(self._state.next_seq, "reported")
        full = msgspec.structs.replace(
            snapshot,
            epoch=self._epoch,
            seq=seq,
            at=self._clock.wall(),
            agent_version=self._agent_version,
            state_digest=digest_of(snapshot),
        )
        await self._publish("reported", reported.KIND, full)

    async def _on_desired(self, message: Received) -> None:
        if not message.payload:
            return  # a retained message that was cleared: nothing is ordered, what runs stays
        # A generation has its own signed expiry, which alarms and never stops anything; the envelope's says nothing here.
        signed = body_of(unseal(message.payload), desired.KIND, SignedGeneration)
        self._heard_at = self._clock.wall()
        await self._hooks.generation(signed)
        self.changed()

    async def _on_command(self, message: Received) -> None:
        signed = self._body(message, commands.KIND, SignedCommand)
        verify(signed.payload.encode(), signature=signed.signature, key_id=signed.key_id, keys=self._own.keys)
        command = decoded(signed.payload.encode(), Command, field="payload")
        self._check(command)
        if command.id in self._seen:
            return
        self._seen.append(command.id)
        done = command.verb in (Verb.REPORT, Verb.SNAPSHOT)
        if done:
            self.changed()
        detail = "" if done else f"this agent does not take {command.verb.value}"
        await self._publish("command-result", commands.RESULT, CommandResult(id=command.id, ok=done, detail=detail))

    def _check(self, command: Command) -> None:
        if (command.tenant, command.device) != (self._own.tenant, self._own.device):
            value = f"{command.tenant}/{command.device}"
            raise Refused("a command for another device", kind=Refusal.FORBIDDEN, field="payload.device", value=value)
        if self._clock.wall() >= command.expires_at:
            raise Refused("the command has expired", field="payload.expires_at", value=command.expires_at)

    async def _on_ack(self, message: Received) -> None:
        await self._hooks.acknowledged(self._body(message, telemetry.ACK, Ack))

    async def _on_state(self, message: Received) -> None:
        if not message.payload:
            return
        state = self._body(message, reported.STATE, CloudState)
        before = self._cloud
        if before is not None and state.epoch < before.epoch:
            return  # the will of a control plane that was replaced
        self._cloud = state
        # A retained word may be old: it says when it was said.
        self._heard_at = max(self._heard_at, min(state.at, self._clock.wall()))
        if state.online and (before is None or not before.online or before.epoch != state.epoch):
            self.changed()

    async def _on_pressure(self, message: Received) -> None:
        if message.payload:
            self._hooks.pressure(self._body(message, pressure.KIND, Pressure))

    def _body(self, message: Received, kind: str, into: type[B]) -> B:
        envelope = unseal(message.payload)
        if envelope.is_expired(self._clock.wall()):
            raise Refused("the message has expired", field="expires_at", value=envelope.expires_at)
        return body_of(envelope, kind, into)

    async def _publish(self, name: str, kind: str, body: object) -> None:
        await self._mqtt.publish(self._topic(name), self._sealed(kind, body))

    def _sealed(self, kind: str, body: object) -> bytes:
        return seal(kind, body, id=str(uuid.uuid4()), now=self._clock.wall())

    def _topic(self, name: str, *, free: tuple[str, ...] = ()) -> str:
        return topic(name, tenant=self._own.tenant, device=self._own.device, free=free)


async def _echo(_message: Received) -> None:
    """Our own request: `chunks/get` is under the filter of the answers, and not every broker keeps it from its writer."""


def digest_of(state: Reported) -> str:
    """SHA-256 of everything reported but who sends it when; equal digests need no new report."""
    bare = msgspec.structs.replace(state, epoch=0, seq=0, at=0.0, agent_version="", state_digest="")
    return hashlib.sha256(msgspec.json.encode(bare, order="sorted")).hexdigest()
