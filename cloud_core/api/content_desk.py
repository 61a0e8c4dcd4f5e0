"""Content for devices that have only MQTT: the parts they ask for, each as one message.

Invariants:

* whose content it is says the topic, which the broker guards: a device gets its own tenant's, on its own topics;
* a device has one part on its way at a time and a bound on bytes per second, and all devices share few places, taken in turn:
  nobody waits behind another's list;
* nothing is owed: what is asked twice while it waits is sent once, what does not fit the list or the broker is dropped, and the
  device asks again for what it lacks.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.store import versions
from cloud_core.store.chunk_stores import ChunksOf
from cloud_core.store.chunks import Chunks
from cloud_core.store.database import Connection, read
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.mqtt import Handler, Outcome, Received
from shared.protocol import content
from shared.protocol.content import Get, Part
from shared.protocol.envelope import body_of, unseal
from shared.protocol.errors import Corrupt, Refusal, Refused, Transient
from shared.protocol.topics import topic

PLACES = 4
"""Parts on their way to the broker together."""
WAITING = 128
"""Parts of one device that may wait."""
BURST_S = 0.5
"""For how long a device that was slow may be faster than its bound."""
DEVICES = 10_000
"""Devices that may be served together; the others ask again."""
ABSENT, FAILED = 404, 503
Metadata = Callable[[Connection, str, str], Awaitable[bytes | None]]
Send = Callable[[str, bytes], Awaitable[None]]


class _Device(NamedTuple):
    tenant: str
    device: str


class _Wanted(NamedTuple):
    row: str
    part: Part


class Found(NamedTuple):
    """A part's bytes, the size of the whole, and what tells it from another of its name."""

    data: bytes
    size: int
    tag: str


class ContentDesk:
    """Owner of what devices wait for."""

    def __init__(
        self,
        engine: AsyncEngine,
        chunks: ChunksOf,
        metadata: Metadata,
        *,
        bytes_per_s: int,
        part_bytes: int,
        clock: Clock,
        log: Log,
        registry: CollectorRegistry,
    ) -> None:
        """`metadata` gives a file of a tenant's TUF metadata; `bytes_per_s` is each device's.

        `part_bytes`: a part is cut off there, since a broker ends the connection that sends it more than it takes.
        """
        self._engine = engine
        self._chunks = chunks
        self._metadata = metadata
        self._rate = bytes_per_s
        self._most = part_bytes
        self._clock = clock
        self._log = log
        self._waiting: dict[_Device, dict[_Wanted, None]] = {}
        self._arrived: asyncio.Queue[_Device] = asyncio.Queue()
        self._places = asyncio.Semaphore(PLACES)
        self._parts = Counter("tideline_mqtt_content_parts", "Parts by outcome.", ["outcome"], registry=registry)
        self._bytes = Counter("tideline_mqtt_content_bytes", "Bytes of content sent over MQTT.", registry=registry)

    @property
    def handlers(self) -> dict[str, Handler]:
        """By row, for a link."""
        return dict.fromkeys(content.KINDS, self._on_get)

    async def run(self, send: Send) -> None:
        """Answer for ever by `send`, `MqttLink.publish`."""
        async with asyncio.TaskGroup() as group:
            while True:
                who = await self._arrived.get()
                group.create_task(self._serve(who, send), name=f"content:{who.tenant}/{who.device}")

    def count(self, _kind: str, outcome: Outcome) -> None:
        """What became of a request; one that was taken shows by its parts."""
        if outcome is not Outcome.HANDLED:
            self._parts.labels(outcome.value).inc()

    async def _on_get(self, message: Received) -> None:
        row, who = message.where.row.name, _Device(message.where.tenant or "", message.where.device or "")
        get = body_of(unseal(message.payload), row, Get)
        content.check(get, row)
        if who not in self._waiting:
            if len(self._waiting) >= DEVICES:
                self._parts.labels("dropped").inc(len(get.parts))
                return
            self._waiting[who] = {}
            self._arrived.put_nowait(who)
        waiting = self._waiting[who]
        for part in get.parts:
            if len(waiting) < WAITING:
                waiting.setdefault(_Wanted(row, part))
            else:
                self._parts.labels("dropped").inc()

    async def _serve(self, who: _Device, send: Send) -> None:
        """Send what one device waits for, one part after the other, until it waits for none."""
        free_at, waiting = self._clock.monotonic(), self._waiting[who]
        while waiting:
            wanted = next(iter(waiting))
            await asyncio.sleep(max(0.0, free_at - self._clock.monotonic()))
            async with self._places:
                size = await self._send(who, wanted, send)
            del waiting[wanted]
            free_at = max(free_at, self._clock.monotonic() - BURST_S) + size / self._rate
        del self._waiting[who]

    async def _send(self, who: _Device, wanted: _Wanted, send: Send) -> int:
        """One part, or why not; how many bytes."""
        part, outcome = wanted.part, "sent"
        try:
            found = await self._find(who.tenant, wanted)
            payload = content.sealed(found.data, begin=part.begin, size=found.size, tag=found.tag)
        except Refused as error:
            payload, outcome = content.refused(ABSENT, error.message, begin=part.begin), "absent"
        except (Transient, Corrupt) as error:
            payload, outcome = content.refused(FAILED, error.message, begin=part.begin), "failed"
        name = topic(content.KINDS[wanted.row], tenant=who.tenant, device=who.device, free=(part.name,))
        try:
            await send(name, payload)
        except Transient as error:
            self._log.debug("part not sent", topic=name, error=error.message)
            outcome = "dropped"
        self._parts.labels(outcome).inc()
        if outcome == "sent":
            self._bytes.inc(len(payload))
        return len(payload)

    async def _find(self, tenant: str, wanted: _Wanted) -> Found:
        part = wanted.part
        part = Part(part.name, part.begin, min(part.end, part.begin + self._most))
        if wanted.row == "chunks-get":
            found = await asyncio.to_thread(part_of, self._chunks(tenant), part)
            if found is not None:
                return found
        async with read(self._engine) as connection:
            if wanted.row == "trust-get":
                data = await self._metadata(connection, tenant, part.name)
            else:
                version = await versions.by_digest(connection, tenant, part.name)
                data = None if version is None else version.manifest.encode()
        if data is None:
            raise Refused("there is none of this name", kind=Refusal.NOT_FOUND, field="name", value=part.name)
        return Found(data[part.begin : part.end], len(data), hashlib.sha256(data).hexdigest()[:16])


def part_of(chunks: Chunks, part: Part) -> Found | None:
    """Bytes of a chunk's shorter form, which whoever asks verifies. Blocks.

    Raises:
        Refused: it went just now.
        Corrupt: it rotted.
        Transient: the store did not give it.

    """
    look = chunks.look(part.name)
    if look is None:
        return None
    if look.packed and look.stored >= look.size:
        # Content that looks packed is packed whatever that saves; moved is what is shorter.
        return Found(chunks.get(part.name)[part.begin : part.end], look.size, "")
    end = min(part.end, look.stored)
    data = chunks.kept(part.name, part.begin, end) if part.begin < end else b""
    return Found(data, look.stored, "zstd" if look.packed else "")
