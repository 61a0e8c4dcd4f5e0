"""The desk's own bounds: a rate for each device, a list that ends, and nothing sent twice that was asked for twice in a moment."""

import asyncio
import hashlib

import pytest
from prometheus_client import CollectorRegistry

from cloud_core.api import content_desk as module
from cloud_core.api.content_desk import ContentDesk
from cloud_core.store.chunk_stores import open_chunks
from shared.io.mqtt import Received
from shared.protocol.content import Get, Part, opened
from shared.protocol.envelope import seal
from shared.protocol.errors import Refusal, Refused, Transient, Unavailable
from shared.protocol.topics import parse, topic
from tests.cloud_core.broker.brokers import LOG

PACKED = b"tide" * 10_000
PLAIN = hashlib.shake_256(b"plain").digest(40_000)
DIGESTS = {hashlib.sha256(piece).hexdigest(): piece for piece in (PACKED, PLAIN)}


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def wall(self):
        return self.now


def asks(row, *parts, device="d1"):
    where = topic(row, tenant="a", device=device)
    return Received(parse(where), where, seal(row, Get(parts=parts), id="1", now=0.0), False)


def with_desk(folder, work, **options):
    chunks = open_chunks("folder", folder)
    for digest, piece in DIGESTS.items():
        chunks("a").put(digest, piece)

    async def metadata(_connection, tenant, name):
        return None

    async def run():
        clock = Clock()
        desk = ContentDesk(
            None,
            chunks,
            metadata,
            clock=clock,
            log=LOG,
            registry=CollectorRegistry(),
            **{"bytes_per_s": 1 << 40, "part_bytes": 1 << 20, **options},
        )
        await work(desk, clock)

    asyncio.run(asyncio.wait_for(run(), 20))


async def served(desk, send):
    """Serve until nobody waits."""
    running = asyncio.create_task(desk.run(send))
    while desk._waiting and not running.done():
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})
    if not running.cancelled():
        running.result()


def test_a_device_has_a_rate_of_its_own(tmp_path, monkeypatch):
    async def work(desk, clock):
        sent, real = [], asyncio.sleep

        async def sleep(seconds):
            clock.now += seconds
            await real(0)

        async def send(_topic, payload):
            sent.append(len(payload))

        monkeypatch.setattr(module.asyncio, "sleep", sleep)
        digest = hashlib.sha256(PLAIN).hexdigest()
        await desk.handlers["chunks-get"](
            asks("chunks-get", *(Part(digest, at, at + 10_000) for at in range(0, 40_000, 10_000)))
        )
        running = asyncio.create_task(desk.run(send))
        while desk._waiting:
            await real(0)
        running.cancel()
        # After the first half second's worth, no faster than the bound.
        assert clock.now >= (sum(sent[:-1]) - 1000 * module.BURST_S) / 1000

    with_desk(tmp_path, work, bytes_per_s=1000)


def test_what_is_asked_for_again_while_it_waits_is_sent_once_and_lists_end(tmp_path):
    async def work(desk, _clock):
        sent = []

        async def send(_topic, payload):
            sent.append(payload)

        digest = hashlib.sha256(PLAIN).hexdigest()
        parts = [Part(digest, at, at + 10) for at in range(64)]
        for _ in range(3):
            await desk.handlers["chunks-get"](asks("chunks-get", *parts))
        await served(desk, send)
        assert len(sent) == 64
        for begin in range(0, 640, 64):
            await desk.handlers["chunks-get"](
                asks("chunks-get", *(Part(digest, begin + i, begin + i + 10) for i in range(64)))
            )
        await served(desk, send)
        assert len(sent) == 64 + module.WAITING

    with_desk(tmp_path, work)


def test_devices_are_served_in_turn(tmp_path):
    async def work(desk, _clock):
        order = []

        async def send(where, _payload):
            order.append(parse(where).device)
            await asyncio.sleep(0)

        desk._places = asyncio.Semaphore(1)
        parts = [Part(hashlib.sha256(PLAIN).hexdigest(), at, at + 10) for at in range(60)]
        for device in ("d1", "d2", "d3"):
            await desk.handlers["chunks-get"](asks("chunks-get", *parts, device=device))
        await served(desk, send)
        assert len(order) == 180
        # Whoever was served waits behind the others.
        for n in range(1, 180):
            counts = [order[:n].count(device) for device in ("d1", "d2", "d3")]
            assert max(counts) - min(counts) <= 2

    with_desk(tmp_path, work)


def test_chunks_are_sent_in_the_form_they_are_kept_in(tmp_path):
    async def work(desk, _clock):
        heads = {}

        async def send(where, payload):
            heads[parse(where).free[0]] = opened(payload).head

        await desk.handlers["chunks-get"](asks("chunks-get", *(Part(digest, 0, 1 << 20) for digest in DIGESTS)))
        await served(desk, send)
        assert heads[hashlib.sha256(PLAIN).hexdigest()].size == len(PLAIN)
        packed = heads[hashlib.sha256(PACKED).hexdigest()]
        assert packed.size < len(PACKED) / 10
        assert packed.tag == "zstd"

    with_desk(tmp_path, work)


def test_a_broker_that_is_gone_costs_the_list_and_nothing_else(tmp_path):
    async def work(desk, _clock):
        async def gone(_topic, _payload):
            raise Transient("gone", why=Unavailable.UNREACHABLE)

        await desk.handlers["chunks-get"](asks("chunks-get", *(Part(digest, 0, 10) for digest in DIGESTS)))
        await served(desk, gone)
        assert desk._waiting == {}

    with_desk(tmp_path, work)


@pytest.mark.parametrize(
    "payload", [b"", b"{}", seal("chunks-get", {"parts": [["x", 0, 1]]}, id="1", now=0.0), b"\xff" * 100]
)
def test_what_is_no_request_is_refused(tmp_path, payload):
    async def work(desk, _clock):
        message = asks("chunks-get", Part("0" * 64, 0, 1))._replace(payload=payload)
        with pytest.raises(Refused) as caught:
            await desk.handlers["chunks-get"](message)
        assert caught.value.kind is Refusal.MALFORMED
        assert desk._waiting == {}

    with_desk(tmp_path, work)
