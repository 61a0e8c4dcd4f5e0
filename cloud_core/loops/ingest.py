"""Ingest: what devices say becomes rows; only then is anything acknowledged.

Invariants:

* who speaks is the topic's tenant and device, which the broker guards; what a body claims of its sender is not looked at;
* presence and reports are levels by the device's epochs: the will of an older connection, or an older report, changes nothing;
* many messages, one transaction; acknowledgements go out after its commit and say what the database holds;
* a full queue holds the connection back; what the connection then drops is counted, and the device sends it again.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.decide.summary import summary_of
from cloud_core.loops.metrics import LoopMetrics
from cloud_core.store import devices, outbox, presence, telemetry
from cloud_core.store.database import Connection, write
from cloud_core.store.rows import text_of
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.mqtt import Handler, Received
from shared.io.signing import Signer
from shared.protocol import commands, reported
from shared.protocol import telemetry as wire
from shared.protocol.commands import Command, CommandResult, SignedCommand, Verb
from shared.protocol.envelope import body_of, seal, unseal
from shared.protocol.errors import Refusal, Refused, Transient
from shared.protocol.reported import Birth, Death, Reported
from shared.protocol.telemetry import Ack, Batch, Sample
from shared.protocol.topics import topic

QUEUE = 5000
BATCH = 500
MAX_BYTES = 1024 * 1024
LARGEST = 2**63 - 1
COMMAND_VALID_S = 60.0
SUMMARY_S = 60.0
"""What the fleet's lists show of a device: its samples of this many seconds."""
RETRY_S = 0.5
STORED, OLD, UNKNOWN = "stored", "old-news", "unknown-device"
Body = Birth | Death | Reported | Batch | CommandResult
Name = tuple[str, str]
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
        applied: Callable[[str, str, Reported], None],
        metrics: LoopMetrics,
        clock: Clock,
        log: Log,
    ) -> None:
        """`applied` is told of each report that was news."""
        self._engine = engine
        self._signer = signer
        self._applied = applied
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._queue: asyncio.Queue[Said] = asyncio.Queue(maxsize=QUEUE)

    @property
    def handlers(self) -> dict[str, Handler]:
        """By row, for the link."""
        return dict.fromkeys(KINDS, self._on_message)

    async def run(self, send: Callable[..., Awaitable[None]]) -> None:
        """For ever: write what waits, then acknowledge; `send` is `MqttLink.publish`."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self.ingest(batch, send)

    async def ingest(self, batch: Sequence[Said], send: Callable[..., Awaitable[None]]) -> None:
        """Write one batch, however long the database takes to be there, then acknowledge it."""
        while True:
            try:
                acks = await self._write(batch)
                break
            except Transient as error:
                self._log.warning("messages not written yet", count=len(batch), error=error.message)
                await asyncio.sleep(RETRY_S)
        for tenant, device, ack in acks:
            payload = seal(wire.ACK, ack, id=str(uuid.uuid4()), now=self._clock.wall())
            try:
                await send(topic("telemetry-ack", tenant=tenant, device=device), payload)
            except Transient as error:
                # The device sends again what was not acknowledged.
                self._log.info("acknowledgement not sent", tenant=tenant, device=device, error=error.message)

    async def _on_message(self, message: Received) -> None:
        kind, body = KINDS[message.where.row.name]
        if len(message.payload) > MAX_BYTES:
            size = len(message.payload)
            raise Refused("message too large", kind=Refusal.TOO_LARGE, field="$", value=size, allowed=f"{MAX_BYTES} B")
        said = body_of(unseal(message.payload), kind, body)
        check(said)
        await self._queue.put(Said(message.where.tenant or "", message.where.device or "", said))

    async def _write(self, batch: Sequence[Said]) -> list[tuple[str, str, Ack]]:
        now = self._clock.wall()
        news: list[tuple[str, str, Reported]] = []
        outcomes: list[tuple[str, str]] = []
        owed: dict[tuple[str, str, int], None] = {}
        acks: list[tuple[str, str, Ack]] = []
        async with write(self._engine) as connection:
            there = await presence.known(connection, {said.name for said in batch})
            living = {said.name for said in batch if said.name in there and not isinstance(said.body, Death)}
            for said in batch:
                kind = type(said.body).__name__.lower()
                if said.name not in there:
                    outcomes.append((kind, UNKNOWN))
                    continue
                is_news = await self._record(connection, said, now)
                outcomes.append((kind, STORED if is_news else OLD))
                if is_news and isinstance(said.body, Reported):
                    news.append((*said.name, said.body))
                if isinstance(said.body, Batch):
                    owed[(*said.name, said.body.epoch)] = None
            if living:
                await presence.heard(connection, living, now=now)
            for tenant, device, epoch in owed:
                seq = await telemetry.watermark(connection, tenant, device, epoch=epoch)
                if seq is not None:
                    acks.append((tenant, device, Ack(epoch=epoch, seq=seq)))
        for kind, outcome in outcomes:
            self._metrics.count(kind, outcome)
        for tenant, device, report in news:
            self._applied(tenant, device, report)
        return acks

    async def _record(self, connection: Connection, said: Said, now: float) -> bool:
        tenant, device = said.name
        match said.body:
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
            case Batch() as sent:
                samples = [not_after(sample, now) for sample in sent.samples]
                new = await telemetry.store(connection, tenant, device, epoch=sent.epoch, samples=samples)
                lately = await telemetry.since(connection, tenant, ended_after=now - SUMMARY_S, device=device)
                summary = summary_of([sample for _, sample in lately] or samples)
                if new and summary is not None:
                    await devices.record_telemetry(connection, tenant, device, summary, now=now)
                return new > 0
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


def not_after(sample: Sample, now: float) -> Sample:
    """The sample, moved back where a device's clock runs ahead: else it would be kept for ever and hide every later one."""
    ahead = sample.ended_at - now
    if ahead <= 0:
        return sample
    return msgspec.structs.replace(sample, started_at=sample.started_at - ahead, ended_at=now)


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
                if not sample.started_at <= sample.ended_at < 1e12:
                    raise Refused("an interval that cannot be", field="body.samples[].ended_at", value=sample.ended_at)
        case CommandResult():
            pass


def _digest_of(text: str | None) -> str | None:
    return None if text is None else msgspec.json.decode(text, type=Reported).state_digest
