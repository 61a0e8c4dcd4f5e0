"""Both ends of content over MQTT for tests: the cloud's desk and a device's source, on a real broker; the way may lose parts."""

import asyncio
import hashlib
import random
import uuid
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from cloud_core.api.content_desk import ContentDesk
from cloud_core.api.content_link import content_link
from cloud_core.store.chunk_stores import open_chunks
from edge_agent.control.fetch_mqtt import MqttSource
from shared.bundle.manifest import Chunk
from shared.io.clock import SystemClock
from shared.io.mqtt import MqttLink
from shared.protocol import content
from shared.protocol.envelope import seal
from shared.protocol.topics import topic
from tests.cloud_core.broker.brokers import KEYS, LOG

TENANT, DEVICE = "a", "d1"
PIECES = [hashlib.shake_256(bytes([i])).digest(size) for i, size in enumerate((1, 1000, 70_000, 200_003, 65_536))]
CHUNKS = [Chunk(hashlib.sha256(piece).hexdigest(), len(piece)) for piece in PIECES]
METADATA = {"timestamp.json": b'{"signed": {}}', "1.root.json": b"r" * 150_000}


class Cloud:
    """The desk, and what it sent; `spoil(topic, payload)` gives what goes out instead, None for nothing."""

    def __init__(self, site, folder, *, part_bytes=1 << 20):
        self.chunks = open_chunks("folder", folder)
        self.registry = CollectorRegistry()
        self.spoil = lambda _topic, payload: payload
        self.sent = []
        self.metadata = dict(METADATA)
        self.desk = ContentDesk(
            site.engine,
            self.chunks,
            self._file,
            bytes_per_s=1 << 30,
            part_bytes=part_bytes,
            clock=SystemClock(),
            log=LOG,
            registry=self.registry,
        )
        self.link = content_link(site.settings, KEYS, self.desk, clock=SystemClock(), log=LOG)

    def publish(self, *pieces, tenant=TENANT):
        for piece in pieces:
            self.chunks(tenant).put(hashlib.sha256(piece).hexdigest(), piece)

    async def _file(self, _connection, tenant, name):
        return self.metadata.get(name) if tenant == TENANT else None

    async def send(self, where, payload):
        spoilt = self.spoil(where, payload)
        if spoilt is not None:
            self.sent.append((where, len(spoilt)))
            await self.link.publish(where, spoilt)

    @asynccontextmanager
    async def running(self):
        tasks = [asyncio.create_task(self.link.run()), asyncio.create_task(self.desk.run(self.send))]
        await self.link.wait_connected()
        try:
            yield self
        finally:
            tasks[1].cancel()
            await asyncio.wait(tasks[1:])
            await self.link.close()
            await tasks[0]
            if not tasks[1].cancelled():
                tasks[1].result()


class OnDevice:
    """A device's link with nothing on it but content."""

    def __init__(self, site, *, name=f"{TENANT}/{DEVICE}", **options):
        tenant, device = name.split("/")
        self.asked = []

        async def will():
            return None

        async def connected():
            rows = content.KINDS.values()
            await self.link.subscribe(*(topic(row, tenant=tenant, device=device, free=("+",)) for row in rows), qos=0)
            self.source.connected()

        async def send(row, get):
            self.asked.append(get)
            payload = seal(row, get, id=str(uuid.uuid4()), now=0.0)
            await self.link.publish(topic(row, tenant=tenant, device=device), payload)

        async def echo(_message):
            pass

        self.source = MqttSource(send, clock=SystemClock(), log=LOG, **options)
        self.refused = []
        self.link = MqttLink(
            site.server(name),
            will=will,
            on_connected=connected,
            handlers=dict.fromkeys(content.KINDS.values(), self.source.received) | dict.fromkeys(content.KINDS, echo),
            count=lambda kind, outcome: self.refused.append(kind) if outcome == "refused" else None,
            log=LOG,
            clock=SystemClock(),
            draw=random.random,
        )

    async def get(self, path, *, limit, begin=0):
        pieces = []

        async def keep(piece):
            pieces.append(piece)

        await self.source.get(path, keep, limit=limit, begin=begin)
        return b"".join(pieces)

    @asynccontextmanager
    async def running(self):
        tasks = [asyncio.create_task(self.link.run()), asyncio.create_task(self.source.run())]
        await self.link.wait_connected()
        try:
            yield self
        finally:
            await self.link.close()
            await tasks[0]
            tasks[1].cancel()
            await asyncio.wait(tasks[1:])
            if not tasks[1].cancelled():
                tasks[1].result()
