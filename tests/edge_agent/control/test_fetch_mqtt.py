"""Content over MQTT, on both brokers: whatever is lost, damaged or killed on the way, what arrives is right and little came twice."""

import asyncio
import hashlib
import random

import pytest

from edge_agent.control import fetch_mqtt
from edge_agent.control.fetch import Fetcher
from edge_agent.decide import asking
from shared.bundle.manifest import Chunk
from shared.bundle.store import ChunkStore
from shared.io.clock import SystemClock
from shared.protocol.content import opened, sealed
from shared.protocol.errors import Corrupt, Refusal, Refused, Transient
from shared.protocol.topics import Path as Paths
from tests.cloud_core.broker.brokers import KINDS, database, running
from tests.edge_agent.control.mqtt_content import CHUNKS, METADATA, PIECES, Cloud, OnDevice

BOTH = pytest.mark.parametrize("kind", KINDS)
MOST = 1 << 20


def on_broker(kind, folder, work, *, devices=("a/d1", "b/d1"), **options):
    async def run():
        async with (
            database(folder, *devices) as engine,
            running(kind, folder, engine) as site,
            Cloud(site, folder / "artifacts").running() as cloud,
            OnDevice(site, **options).running() as device,
        ):
            cloud.publish(*PIECES)
            await work(cloud, device, site)

    asyncio.run(asyncio.wait_for(run(), 60))


def path_of(chunk):
    return Paths.CHUNK.format(digest=chunk.digest)


@BOTH
def test_chunks_manifests_and_metadata_come_whole_and_in_small_messages(tmp_path, kind):
    store = ChunkStore(tmp_path / "device")

    async def work(cloud, device, site):
        await Fetcher(device.source, clock=SystemClock()).chunks(CHUNKS, store)
        assert [store.get(chunk.digest) for chunk in CHUNKS] == PIECES
        for name, data in METADATA.items():
            assert await device.get(Paths.TRUST.format(file=name), limit=MOST) == data
        assert max(size for _, size in cloud.sent) <= 64 * 1024 + 200
        # Nothing was lost, so nothing was asked for twice.
        parts = [part for get in device.asked for part in get.parts]
        assert len(parts) == len(set(parts)) == len(cloud.sent)

    on_broker(kind, tmp_path, work)


@BOTH
def test_a_device_gets_nothing_of_another_tenant_and_nothing_that_is_not_there(tmp_path, kind):
    async def work(cloud, device, site):
        secret = b"another tenant's"
        cloud.publish(secret, tenant="b")
        digest = hashlib.sha256(secret).hexdigest()
        with pytest.raises(Refused) as caught:
            await device.get(Paths.CHUNK.format(digest=digest), limit=MOST)
        assert caught.value.kind is Refusal.NOT_FOUND
        with pytest.raises(Refused):
            await device.get(Paths.TRUST.format(file="2.root.json"), limit=MOST)
        with pytest.raises(Refused, match="not to be had over MQTT"):
            await device.get("/device/v1/token", limit=MOST)
        async with OnDevice(site, name="b/d1").running() as other:
            assert await other.get(Paths.CHUNK.format(digest=digest), limit=MOST) == secret

    on_broker(kind, tmp_path, work)


@BOTH
def test_parts_that_are_lost_are_asked_for_again(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(asking, "FIRST_S", 0.3)
    monkeypatch.setattr(asking, "LEAST_S", 0.3)
    drawn = random.Random(7)
    big = drawn.randbytes(2_000_000)
    chunk = Chunk(hashlib.sha256(big).hexdigest(), len(big))

    async def work(cloud, device, site):
        device.source._flow = asking.Flow(patience=0.3)
        cloud.publish(big)
        lost = []

        def spoil(where, payload):
            if drawn.random() < 0.2:
                lost.append(where)
                return None
            return payload

        cloud.spoil = spoil
        assert await device.get(path_of(chunk), limit=len(big)) == big
        assert lost

    on_broker(kind, tmp_path, work, part_bytes=16 * 1024)


@BOTH
def test_a_damaged_part_is_dropped_and_asked_for_again(tmp_path, kind):
    damaged = []

    async def work(cloud, device, site):
        device.source._flow = asking.Flow(patience=0.3)

        def spoil(where, payload):
            if len(damaged) < 2:
                damaged.append(where)
                return payload[:-1] + bytes([payload[-1] ^ 1]) if len(damaged) == 1 else b"no head at all"
            return payload

        cloud.spoil = spoil
        assert await device.get(path_of(CHUNKS[3]), limit=MOST) == PIECES[3]
        assert device.refused == ["chunks", "chunks"]

    on_broker(kind, tmp_path, work)


@BOTH
def test_wrong_bytes_that_look_right_are_corrupt_and_never_kept(tmp_path, kind):
    """A broker that lies: the checksum is its own, the digest is not."""
    store = ChunkStore(tmp_path / "device")

    async def work(cloud, device, site):
        cloud.spoil = lambda where, payload: sealed(
            bytes(len(opened(payload).data)), begin=opened(payload).head.begin, size=opened(payload).head.size, tag=""
        )
        with pytest.raises(Corrupt):
            await Fetcher(device.source, clock=SystemClock()).chunks(CHUNKS[3:4], store)
        cloud.spoil = lambda where, payload: sealed(b"x" * 4096, begin=0, size=1 << 40, tag="")
        with pytest.raises(Corrupt):
            await Fetcher(device.source, clock=SystemClock()).chunks(CHUNKS[3:4], store)
        assert store.held() == frozenset()

    on_broker(kind, tmp_path, work)


@BOTH
def test_a_broker_killed_in_the_middle_costs_what_was_on_its_way(tmp_path, kind):
    big = random.Random(3).randbytes(3_000_000)
    chunk = Chunk(hashlib.sha256(big).hexdigest(), len(big))
    store = ChunkStore(tmp_path / "device")

    async def run():
        async with database(tmp_path, "a/d1") as engine:
            async with running(kind, tmp_path, engine) as site:
                cloud, device = Cloud(site, tmp_path / "artifacts"), OnDevice(site)
                cloud.publish(big)
                half, gone = asyncio.Event(), asyncio.Event()

                async def slow(where, payload, send=cloud.send):
                    if len(cloud.sent) == 20:
                        half.set()
                        await gone.wait()
                    await send(where, payload)

                cloud.send = slow
                tasks = [asyncio.create_task(one) for one in (
                    cloud.link.run(), cloud.desk.run(cloud.send), device.link.run(), device.source.run(),
                )]  # fmt: skip
                fetching = asyncio.create_task(Fetcher(device.source, clock=SystemClock()).chunks([chunk], store))
                await half.wait()
            gone.set()
            async with running(kind, tmp_path, engine, port=site.port):
                await fetching
                assert store.get(chunk.digest) == big
                # What was on its way when the broker went: a window of parts at the most, less than the chunk.
                assert sum(size for _, size in cloud.sent) <= len(big) + asking.WINDOW * (64 * 1024 + 200) + 20_000
                await device.link.close()
                await cloud.link.close()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(run(), 60))


@BOTH
def test_a_fetch_that_was_interrupted_goes_on_where_it_was(tmp_path, kind):
    big = random.Random(5).randbytes(3_000_000)
    chunk = Chunk(hashlib.sha256(big).hexdigest(), len(big))
    store = ChunkStore(tmp_path / "device")

    async def work(cloud, device, site):
        cloud.publish(big)
        some = asyncio.Event()

        def spoil(where, payload):
            if len(cloud.sent) == 20:
                some.set()
            return payload if len(cloud.sent) < 20 else None

        cloud.spoil = spoil
        first = asyncio.create_task(Fetcher(device.source, clock=SystemClock()).chunks([chunk], store))
        await some.wait()
        partial = store.root / "partial" / chunk.digest
        async with asyncio.timeout(10):
            while partial.stat().st_size < 20 * 64 * 1024:
                await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait({first})
        cloud.spoil = lambda where, payload: payload
        await Fetcher(device.source, clock=SystemClock()).chunks([chunk], store)
        assert store.get(chunk.digest) == big
        # 20 of the 46 parts were there; only those still came twice that the cloud had not yet dropped from the first list.
        assert sum(size for _, size in cloud.sent) <= len(big) + fetch_mqtt.AHEAD * (64 * 1024 + 200) + 50 * 200

    on_broker(kind, tmp_path, work)


def test_a_cloud_that_sends_less_at_a_time_is_asked_for_less(tmp_path):
    async def work(cloud, device, site):
        cloud.desk._most = 5000
        assert await device.get(path_of(CHUNKS[3]), limit=MOST) == PIECES[3]
        assert device.source.grain == 5000
        assert max(size for _, size in cloud.sent) <= 5200
        assert await device.get(Paths.TRUST.format(file="1.root.json"), limit=MOST) == METADATA["1.root.json"]

    on_broker("embedded", tmp_path, work)


def test_silence_is_given_up_on(tmp_path):
    async def work(cloud, device, site):
        cloud.spoil = lambda where, payload: None
        fetcher = Fetcher(device.source, clock=SystemClock(), slowest=10**6, window=0.2)
        with pytest.raises(Transient, match="B came in"):
            await fetcher.chunks(CHUNKS[:1], ChunkStore(tmp_path / "device"))
        assert device.source._wanted == []

    on_broker("embedded", tmp_path, work)


def test_what_changes_on_the_way_is_not_mixed(tmp_path):
    async def work(cloud, device, site):
        def spoil(where, payload):
            cloud.metadata["1.root.json"] = b"s" * 150_000
            return payload

        cloud.spoil = spoil
        with pytest.raises(Transient, match="changed on the way"):
            await device.get(Paths.TRUST.format(file="1.root.json"), limit=MOST)
        assert await device.get(Paths.TRUST.format(file="1.root.json"), limit=MOST) == b"s" * 150_000
        with pytest.raises(Corrupt):
            await device.get(Paths.TRUST.format(file="1.root.json"), limit=1000)

    on_broker("embedded", tmp_path, work)


def test_paths_are_those_of_the_device_api():
    assert fetch_mqtt._named(Paths.CHUNK.format(digest="0" * 64)) == ("chunks-get", "0" * 64)
    assert fetch_mqtt._named(Paths.MANIFEST.format(digest="0" * 64)) == ("chunks-get", "0" * 64)
    assert fetch_mqtt._named(Paths.TRUST.format(file="root.json")) == ("trust-get", "root.json")
