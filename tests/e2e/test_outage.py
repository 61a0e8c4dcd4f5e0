"""A day without the cloud, of a thousand devices, in virtual time: what they took is what history holds and what they say they lost."""

import asyncio
import contextlib
import itertools
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.loops.rollup import AT_ONCE, DEVICES, FLEET, roll_up
from cloud_core.loops.samples import Sent, write_samples
from cloud_core.store import telemetry
from cloud_core.store.database import migrate, read, write
from edge_agent.telemetry.spool import Spool
from shared.protocol.telemetry import Ack, Batch, Sample
from tests.cloud_core.loops.telemetry import HOUR, registry, sample, told

FLEET_SIZE, HOURS = 1_000, 24
SPOOL_BYTES = 2_000
"""Too little for a day, so that some must go."""
AT_A_TIME = 250
MEMORY = Path("/dev/shm")
"""Where there is one: twenty thousand durable writes, and no power is cut here."""
NOW = HOUR + (HOURS + 1) * 3600.0


class Device:
    """A real spool, opened anew each time: each opening is a start of the agent, with an epoch of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.taken = self.requests = 0
        self._file = folder / f"{name}.db"
        self._epochs = itertools.count(1)

    @contextlib.contextmanager
    def spool(self) -> Iterator[Spool]:
        spool = Spool(self._file, most_bytes=SPOOL_BYTES, new_epoch=self._epochs.__next__)
        try:
            yield spool
        finally:
            spool.close()

    def take(self, spool: Spool, latencies: Sequence[float]) -> None:
        at = HOUR + self.taken * 3600.0

        def made(seq: int, dropped: dict[str, int]) -> Sample:
            return msgspec.structs.replace(sample(seq, *latencies, at=at), dropped=dropped)

        spool.append(made)
        self.taken += 1
        self.requests += len(latencies)


class Crash(Exception):
    """The cloud dies before it commits."""


async def deliver(engine: AsyncEngine, sent: Sequence[tuple[Device, Batch]], *, dies: bool) -> dict[str, list[Ack]]:
    acks: dict[str, list[Ack]] = {}
    with contextlib.suppress(Crash):
        async with write(engine) as connection:
            await telemetry.take_turn(connection)
            written = await write_samples(
                connection, [Sent("a", device.name, batch, NOW, NOW) for device, batch in sent], now=NOW
            )
            if dies:
                raise Crash
        for (_, name), ack in written.acks:
            acks.setdefault(name, []).append(ack)
    return acks


async def replay(engine: AsyncEngine, devices: Sequence[Device], dice: random.Random) -> None:
    """The cloud is back: all send at once, twice at times; acknowledgements are lost, and the cloud dies now and then."""
    waiting = list(devices)
    while waiting:
        dice.shuffle(waiting)
        some = waiting[:AT_A_TIME]
        with contextlib.ExitStack() as opened:
            spools = {device.name: opened.enter_context(device.spool()) for device in some}
            sent = [
                (device, batch)
                for device in some
                if (batch := spools[device.name].oldest(most=100, most_bytes=10**6)) is not None
            ]
            again = [each for each in sent if dice.random() < 0.1]
            acks = await deliver(engine, [*sent, *again], dies=dice.random() < 0.1)
            for name, each in acks.items():
                for ack in each:
                    if dice.random() < 0.9:
                        spools[name].trim(ack)
            empty = {name for name, spool in spools.items() if spool.count() == 0}
        waiting = [device for device in waiting if device.name not in empty]


async def roll_all_up(engine: AsyncEngine) -> None:
    for stage in (FLEET, DEVICES):
        samples = AT_ONCE
        while samples == AT_ONCE:
            async with write(engine) as connection:
                samples = (await roll_up(connection, stage, now=NOW)).samples


@pytest.mark.slow
def test_a_days_outage_of_a_thousand_devices_ends_with_equal_sums(tmp_path: Path) -> None:
    dice = random.Random(7)
    devices: list[Device] = []

    async def scenario(folder: Path) -> None:
        url = f"sqlite+aiosqlite:///{folder}/registry.db"
        await migrate(url)
        names = [f"d{number}" for number in range(FLEET_SIZE)]
        async with registry(url, {"g": names}) as engine:
            for name in names:
                device = Device(folder, name)
                devices.append(device)
                with device.spool() as spool:
                    for _ in range(HOURS):
                        device.take(spool, [dice.lognormvariate(-4, 1) for _ in range(dice.randrange(8))])
            await replay(engine, devices, dice)
            for device in devices:  # what was lost is told by the next sample
                with device.spool() as spool:
                    device.take(spool, ())
            await replay(engine, devices, dice)
            await roll_all_up(engine)
            said = await told(engine, HOUR, NOW)
            async with read(engine) as connection:
                kept = await telemetry.after(connection, 0, limit=FLEET_SIZE * (HOURS + 2))
            assert len({(one.device, one.sample.seq) for one in kept}) == len(kept) == said.counts["samples"]
            dropped = said.counts["dropped"]
            assert dropped > FLEET_SIZE  # or this would prove little
            assert said.counts["samples"] + dropped == sum(device.taken for device in devices)
            held = sum(count.count for one in kept for count in one.sample.requests)
            assert said.counts["requests"] == said.histograms["latency"].count == held
            by_device = dict.fromkeys(names, 0)
            for one in kept:
                by_device[one.device] += 1 + sum(one.sample.dropped.values())
            assert by_device == {device.name: device.taken for device in devices}
            alone = await told(engine, HOUR, NOW, seconds=(60, 3600), scope="device", names=None)
            assert alone.counts == said.counts

    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else tmp_path) as folder:
        asyncio.run(scenario(Path(folder)))
