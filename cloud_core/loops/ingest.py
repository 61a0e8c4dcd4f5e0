"""Ingest: what devices say becomes rows; only then is anything acknowledged.

Invariants:

* who speaks is the topic's tenant and device, which the broker guards; what a body claims of its sender is not looked at;
* presence and reports are levels by the device's epochs: the will of an older connection, or an older report, changes nothing;
* a device is asked for its whole state where what is held differs from what it says, or where samples are missing for good; births of
  devices whose state is held ask for nothing, however many come;
* many messages, one transaction; acknowledgements go out after its commit and say what the database holds;
* a full queue holds the connection back; what the connection then drops is counted, and the device sends it again.
"""

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.loops.fleet_metrics import FleetMetrics
from cloud_core.loops.metrics import LoopMetrics
from cloud_core.loops.samples import Sent, write_samples
from cloud_core.store import devices, outbox, presence, telemetry
from cloud_core.store.database import Connection, write
from cloud_core.store.rows import text_of
from shared.io.clock import Clock
from shared.io.deflate import inflated
from shared.io.logs import Log
from shared.io.mqtt import Handler, Received
from shared.io.signing import Signer
from shared.protocol import commands, reported
from shared.protocol import telemetry as wire
from shared.protocol.commands import Command, CommandResult, SignedCommand, Verb
from shared.protocol.envelope import body_of, seal, unseal
from shared.protocol.errors import Refusal, Refused, Transient
from shared.protocol.reported import Birth, Death, Reported
from shared.protocol.telemetry import Ack, Batch
from shared.protocol.topics import topic

QUEUE = 5000
BATCH = 500
BUSY = 8
GATHER_S = 0.1
"""Where the last transaction had this many messages, the next waits so long for more; devices wait ten seconds for an answer."""
MAX_BYTES = 1024 * 1024
LARGEST = 2**63 - 1
LATEST = 1e12
"""Seconds since 1970 that no clock shows: whatever is below can be added to without loss."""
COMMAND_VALID_S = 60.0
RETRY_S = 0.5
SHARED: Mapping[str, str] = {"telemetry": "ingest"}
"""Rows that several processes may share, and the name of the share."""
STORED, OLD, UNKNOWN = "stored", "old-news", "unknown-device"
Body = Birth | Death | Reported | Batch | CommandResult
Name = tuple[str, str]
Send = Callable[[Sequence[tuple[str, bytes]]], Awaitable[None]]
KINDS: Mapping[str, tuple[str, type[Body]]] = {
    "birth": (reported.BIRTH, Birth),
    "death": (reported.DEATH, Death),
    "reported": (reported.KIND, Reported),
    "telemetry": (wire.KIND, Batch),
    "command-result": (commands.RESULT, CommandResult),
}
"""By row: the envelope's kind and the body's type."""


class Said(NamedTuple):
    """One message, read and checked."""

    tenant: str
    device: str
    body: Body
    sent_at: float
    """By the sender's clock."""
    received_at: float

    @property
    def name(self) -> Name:
        """Whose."""
        return self.tenant, self.device


class Ingest:
    """Owner of the messages that wait to be written."""

    def __init__(
        self,
        engine: AsyncEngine,
        signer: Signer,
        *,
        turn: asyncio.Lock,
        applied: Callable[[str, str, Reported], None],
        metrics: LoopMetrics,
        fleet: FleetMetrics,
        clock: Clock,
        log: Log,
    ) -> None:
        """`turn` is shared with the rollup, whose writing must not starve this; `applied` is told of each report that was news."""
        self._engine = engine
        self._turn = turn
        self._signer = signer
        self._applied = applied
        self._metrics = metrics
        self._fleet = fleet
        self._clock = clock
        self._log = log
        self._queue: asyncio.Queue[Said] = asyncio.Queue(maxsize=QUEUE)

    @property
    def handlers(self) -> dict[str, Handler]:
        """By row, for the link."""
        return dict.fromkeys(KINDS, self._on_message)

    async def run(self, send: Send) -> None:
        """For ever: write what waits, then acknowledge; `send` is `MqttLink.publish_all`."""
        is_busy = False
        while True:
            batch = [await self._queue.get()]
            if is_busy and self._queue.qsize() < BATCH:
                # A transaction costs about as much for many messages as for few.
                await asyncio.sleep(GATHER_S)
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            is_busy = len(batch) >= BUSY
            await self.ingest(batch, send)

    async def ingest(self, batch: Sequence[Said], send: Send) -> None:
        """Write one batch, however long the database takes to be there, then acknowledge it."""
        while True:
            try:
                acks = await self._write(batch)
                break
            except Transient as error:
                self._log.warning("messages not written yet", count=len(batch), error=error.message)
                await asyncio.sleep(RETRY_S)
        if acks:
            await self._acknowledge(acks, send)

    async def _acknowledge(self, acks: Sequence[tuple[Name, Ack]], send: Send) -> None:
        """A device sends again what was not acknowledged: nobody waits for the broker over one of these."""
        now = round(self._clock.wall(), 3)
        messages = [
            (topic("telemetry-ack", tenant=tenant, device=device), seal(wire.ACK, ack, id=str(ack.seq), now=now))
            for (tenant, device), ack in acks
        ]
        try:
            await send(messages)
        except Transient as error:
            self._log.info("acknowledgements not sent", count=len(acks), error=error.message)

    async def _on_message(self, message: Received) -> None:
        kind, body = KINDS[message.where.row.name]
        if len(message.payload) > MAX_BYTES:
            size = len(message.payload)
            raise Refused("message too large", kind=Refusal.TOO_LARGE, field="$", value=size, allowed=f"{MAX_BYTES} B")
        data = inflated(message.payload, most=MAX_BYTES) if body is Batch else message.payload
        envelope = unseal(data)
        said = body_of(envelope, kind, body)
        check(said)
        if not abs(envelope.sent_at) < LATEST:
            raise Refused("a time that cannot be", field="sent_at", value=envelope.sent_at)
        tenant, device = message.where.tenant or "", message.where.device or ""
        await self._queue.put(Said(tenant, device, said, envelope.sent_at, self._clock.wall()))

    async def _write(self, batch: Sequence[Said]) -> Sequence[tuple[Name, Ack]]:
        now = self._clock.wall()
        news: list[tuple[str, str, Reported]] = []
        outcomes: Counter[tuple[str, str]] = Counter()
        sent: list[Sent] = []
        async with self._turn, write(self._engine) as connection:
            # Before anything that takes the turn of events: two processes that took them in unequal order would wait for ever.
            if any(isinstance(said.body, Batch) for said in batch):
                await telemetry.take_turn(connection)
            there = await presence.known(connection, {said.name for said in batch})
            living = {said.name for said in batch if said.name in there and not isinstance(said.body, Death)}
            for said in batch:
                kind = type(said.body).__name__.lower()
                if said.name not in there:
                    outcomes[kind, UNKNOWN] += 1
                elif isinstance(said.body, Batch):
                    sent.append(Sent(said.tenant, said.device, said.body, said.sent_at, said.received_at))
                else:
                    is_news = await self._record(connection, said.name, said.body, now)
                    outcomes[kind, STORED if is_news else OLD] += 1
                    if is_news and isinstance(said.body, Reported):
                        news.append((*said.name, said.body))
            if living:
                await presence.heard(connection, living, now=now)
            written = await write_samples(connection, sent, now=now)
            for tenant, device in written.skipped:
                await self._ask_for_report(connection, tenant, device, now)
        outcomes.update(("batch", STORED if is_news else OLD) for is_news in written.news)
        for (kind, outcome), count in outcomes.items():
            self._metrics.count(kind, outcome, count)
        self._fleet.wrote(written)
        for tenant, device, report in news:
            self._applied(tenant, device, report)
        return written.acks

    async def _record(
        self, connection: Connection, name: Name, body: Birth | Death | Reported | CommandResult, now: float
    ) -> bool:
        tenant, device = name
        match body:
            case Birth() as birth:
                held = await devices.get(connection, tenant, device)
                if not await devices.record_birth(connection, tenant, device, birth, now=now):
                    return False
                if held is not None and _digest_of(held.reported) != birth.state_digest:
                    await self._ask_for_report(connection, tenant, device, now)
                return True
            case Death() as death:
                return await devices.record_death(connection, tenant, device, epoch=death.epoch, now=now)
            case Reported() as report:
                await presence.infer_birth(connection, tenant, device, epoch=report.epoch, now=now)
                return await devices.record_report(connection, tenant, device, report, now=now)
            case CommandResult() as result:
                self._log.info("command done", tenant=tenant, device=device, ok=result.ok, detail=result.detail[:200])
                return True

    async def _ask_for_report(self, connection: Connection, tenant: str, device: str, now: float) -> None:
        command = Command(
            id=str(uuid.uuid4()),
            tenant=tenant,
            device=device,
            verb=Verb.REPORT,
            issued_at=now,
            expires_at=now + COMMAND_VALID_S,
        )
        payload = msgspec.json.encode(command)
        signed = SignedCommand(
            key_id=self._signer.key_id, signature=self._signer.sign(payload), payload=payload.decode()
        )
        await outbox.add(connection, tenant, device, kind=commands.KIND, payload=text_of(signed), now=now)


def check(body: Body) -> None:
    """Refuse what types alone let pass and no row can hold.

    Raises:
        Refused: names the field.

    """

    def whole(field: str, value: int) -> None:
        if not 0 <= value <= LARGEST:
            raise Refused("out of range", field=f"body.{field}", value=value, allowed="0 to 2**63-1")

    match body:
        case Birth():
            whole("epoch", body.epoch)
            if not body.agent_version.isprintable():
                raise Refused("not printable", field="body.agent_version", value=body.agent_version)
        case Death():
            whole("epoch", body.epoch)
        case Reported():
            whole("epoch", body.epoch)
            whole("seq", body.seq)
        case Batch():
            whole("epoch", body.epoch)
            for sample in body.samples:
                whole("samples[].seq", sample.seq)
                if not -LATEST < sample.started_at <= sample.ended_at < LATEST:
                    raise Refused("an interval that cannot be", field="body.samples[].ended_at", value=sample.ended_at)
        case CommandResult():
            pass


def _digest_of(text: str | None) -> str | None:
    return None if text is None else msgspec.json.decode(text, type=Reported).state_digest
