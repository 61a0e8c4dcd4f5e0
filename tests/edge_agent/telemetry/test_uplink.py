import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog
from prometheus_client import CollectorRegistry

from edge_agent.telemetry.growth import Growth
from edge_agent.telemetry.host import HostSampler, hardware
from edge_agent.telemetry.metrics import MOST_KEYS, OTHER, Interval, Key, ShadowKey
from edge_agent.telemetry.spool import Spool
from edge_agent.telemetry.uplink import Uplink
from shared.io.clock import SystemClock
from shared.protocol.errors import Transient, Unavailable
from shared.protocol.telemetry import Ack, Batch, Host, Sample, ShadowCount, quantile
from shared.serving.metrics import EngineMetrics

HOST = Host(cpu=0.1, memory=0.2, disk_free_bytes=1, agent_memory_bytes=1)
OK = Key("m", "1.0.0", "local", "ok", "mode")


class World:
    def __init__(self, folder: Path, *, ack_timeout: float = 10.0, quiet: int = 1) -> None:
        self.spool = Spool(folder / "spool.db", most_bytes=1_000_000, new_epoch=itertools.count(5).__next__)
        self.interval = Interval()
        self.sent: asyncio.Queue[Batch] = asyncio.Queue()
        self.down = False
        self.tried = asyncio.Event()
        self.uplink = Uplink(
            self.spool,
            self.interval,
            Growth(EngineMetrics(CollectorRegistry())),
            HostSampler(folder),
            every=0.01,
            clock=SystemClock(),
            log=structlog.get_logger(),
            dropped=lambda reason, count: None,
            ack_timeout=ack_timeout,
            quiet=quiet,
        )

    async def publish(self, batch: Batch) -> None:
        self.tried.set()
        if self.down:
            raise Transient("down", why=Unavailable.UNREACHABLE)
        self.sent.put_nowait(batch)


def in_world(
    folder: Path, test: Callable[[World], Awaitable[None]], *, ack_timeout: float = 10.0, quiet: int = 1
) -> None:
    async def main() -> None:
        world = World(folder, ack_timeout=ack_timeout, quiet=quiet)
        sending = asyncio.create_task(world.uplink.send_forever(world.publish))
        try:
            await asyncio.wait_for(test(world), 20)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            world.spool.close()

    asyncio.run(main())


def test_a_sample_goes_out_and_is_trimmed_by_its_acknowledgement_only(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.interval.request(OK, 0.02)
        world.interval.shed("both-late")
        world.interval.shadowed(ShadowKey("m", "1.1.0", "differ", "label"))
        await world.uplink.sample()
        batch = await world.sent.get()
        (sample,) = batch.samples
        assert (batch.epoch, sample.shed, sample.requests[0].count) == (5, {"both-late": 1}, 1)
        assert sample.shadows == (ShadowCount(model="m", version="1.1.0", result="differ", reason="label", count=1),)
        assert abs((quantile(sample.requests[0].latency, 0.5) or 0) - 0.02) < 0.002
        assert sample.host.disk_free_bytes > 0
        assert world.spool.count() == 1
        await world.uplink.acknowledged(Ack(epoch=5, seq=sample.seq))
        assert world.spool.count() == 0

    in_world(tmp_path, test)


def test_one_batch_at_a_time(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.uplink.sample()
        first = await world.sent.get()
        await world.uplink.sample()
        await world.uplink.sample()
        assert world.sent.empty()
        await world.uplink.acknowledged(Ack(epoch=5, seq=first.samples[-1].seq))
        second = await world.sent.get()
        assert [sample.seq for sample in second.samples] == [2, 3]

    in_world(tmp_path, test)


def test_what_is_not_acknowledged_is_sent_again(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.uplink.sample()
        first = await world.sent.get()
        await asyncio.sleep(0.05)
        world.uplink.connected()
        assert (await world.sent.get()).samples[0] == first.samples[0]
        await world.uplink.acknowledged(Ack(epoch=4, seq=99))
        assert world.spool.count() == 1

    in_world(tmp_path, test, ack_timeout=0.02)


def test_it_waits_for_a_connection(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.down = True
        for _ in range(3):
            await world.uplink.sample()
        await world.tried.wait()
        world.down = False
        world.uplink.connected()
        assert [sample.seq for sample in (await world.sent.get()).samples] == [1, 2, 3]

    in_world(tmp_path, test)


def test_the_last_interval_is_kept_at_the_end(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.interval.request(OK, 0.5)
        await world.uplink.flush(None)
        batch = world.spool.oldest(most=1, most_bytes=1)
        assert batch is not None
        assert batch.samples[0].requests[0].count == 1

    in_world(tmp_path, test)


def test_an_idle_device_says_only_how_its_host_is(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.uplink.sample()
        (sample,) = (await world.sent.get()).samples
        assert set(msgspec.to_builtins(sample)) == {"seq", "started_at", "ended_at", "host"}

    in_world(tmp_path, test)


def test_events_travel_by_themselves(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.interval.request(OK, 0.02)
        world.interval.event(3.0, "converged", "1.2", "0.5 s")
        world.interval.event(2.0, "failed")
        await world.uplink.sample()
        await world.uplink.sample()
        first = await world.sent.get()
        samples = first.samples
        assert ([event.kind for event in samples[0].events], samples[0].requests) == (["converged", "failed"], ())
        assert (samples[0].started_at, samples[0].ended_at) == (2.0, 3.0)
        batch = world.spool.oldest(most=10, most_bytes=10**6)
        assert batch is not None
        assert [len(sample.events) for sample in batch.samples] == [2, 0, 0]
        assert [len(sample.requests) for sample in batch.samples] == [0, 1, 0]

    in_world(tmp_path, test)


def test_samples_with_nothing_to_say_go_together(tmp_path: Path) -> None:
    async def sent(world: World) -> list[int]:
        batch = await world.sent.get()
        await world.uplink.acknowledged(Ack(epoch=batch.epoch, seq=batch.samples[-1].seq))
        return [sample.seq for sample in batch.samples]

    async def test(world: World) -> None:
        await world.uplink.sample()
        assert await sent(world) == [1]
        for _ in range(3):
            await world.uplink.sample()
        assert await sent(world) == [2, 3, 4]
        await world.uplink.sample()
        world.interval.request(OK, 0.1)
        await world.uplink.sample()
        assert await sent(world) == [5, 6]
        await world.uplink.sample()
        world.uplink.connected()
        assert await sent(world) == [7]
        assert world.sent.empty()

    in_world(tmp_path, test, quiet=3)


def test_what_waited_for_an_earlier_run_s_watermark_goes_first(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", most_bytes=1_000_000, new_epoch=lambda: 4)
    spool.append(lambda seq, dropped: Sample(seq=seq, started_at=0.0, ended_at=1.0, host=HOST, dropped=dropped))
    spool.close()

    async def test(world: World) -> None:
        await world.uplink.sample()
        old = await world.sent.get()
        assert (old.epoch, [sample.seq for sample in old.samples]) == (4, [1])
        await world.uplink.acknowledged(Ack(epoch=4, seq=1))
        new = await world.sent.get()
        assert (new.epoch, [sample.seq for sample in new.samples]) == (5, [2])

    in_world(tmp_path, test)


def test_samples_come_by_themselves(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        sampling = asyncio.create_task(world.uplink.sample_forever())
        await world.sent.get()
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)

    in_world(tmp_path, test)


def test_kinds_of_outcome_are_bounded() -> None:
    interval = Interval()
    for i in range(MOST_KEYS * 2):
        interval.request(Key(f"m{i}", "1", "local", "ok", "mode"), 0.1)
    counts, _ = interval.take()
    assert len(counts) <= MOST_KEYS + 1
    assert sum(count.count for count in counts) == MOST_KEYS * 2
    assert next(count for count in counts if count.model == OTHER).count == MOST_KEYS
    assert interval.take() == ((), {})
    for i in range(MOST_KEYS * 2):
        interval.shadowed(ShadowKey(f"m{i}", "1", "agree", "same"))
    shadows = interval.take_shadows()
    assert len(shadows) <= MOST_KEYS + 1
    assert sum(count.count for count in shadows) == MOST_KEYS * 2


def test_equal_machines_have_equal_classes() -> None:
    assert hardware() == hardware()
    assert hardware().cpus >= 1
