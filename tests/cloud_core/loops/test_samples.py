"""Whatever is lost, repeated, reordered, dropped, restored or dies on the way: both sides' sums are equal, drops included."""

import asyncio
import contextlib
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.loops.rollup import DEVICES, FLEET, roll_up
from cloud_core.loops.samples import Sent, write_samples
from cloud_core.store import telemetry
from cloud_core.store.database import read, write
from shared.protocol.telemetry import Ack, Batch, Sample
from tests.cloud_core.loops.telemetry import HOUR, registry, sample, told

NOW = HOUR + 7200.0
ACTS = ("sample", "sample", "send", "send", "send-lost", "ack-lost", "again", "drop", "restart", "roll-up")


@dataclass
class Device:
    """The device's side in small: a ring, oldest first, trimmed below what was acknowledged, drops counted and told."""

    name: str
    epoch: int = 1
    seq: int = 0
    ring: list[tuple[int, Sample]] = field(default_factory=list)
    unsaid: int = 0
    requests: dict[int, int] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)

    def take(self, requests: int) -> None:
        self.seq += 1
        self.requests[self.seq] = requests
        taken = sample(self.seq, *[0.01] * requests, at=HOUR + self.seq * 10.0)
        dropped = {"spool-full": self.unsaid} if self.unsaid else {}
        self.ring.append((self.epoch, msgspec.structs.replace(taken, dropped=dropped)))
        self.unsaid = 0

    def drop(self, which: int) -> None:
        if self.ring:
            _, gone = self.ring.pop(which % len(self.ring))
            self.unsaid += 1 + sum(gone.dropped.values())
            self.dropped.add(gone.seq)

    def batch(self) -> Batch | None:
        if not self.ring:
            return None
        epoch = self.ring[0][0]
        held = [one for of, one in self.ring if of == epoch]
        return Batch(epoch=epoch, samples=tuple(held[:4]))

    def acknowledged(self, ack: Ack) -> None:
        self.ring = [(of, one) for of, one in self.ring if of != ack.epoch or one.seq > ack.seq]


class Crash(Exception):
    """The cloud dies before it commits."""


def perhaps_die(*, dies: bool) -> None:
    if dies:
        raise Crash


async def deliver(engine: AsyncEngine, *batches: tuple[Device, Batch], dies: bool = False) -> list[tuple[str, Ack]]:
    sent = [Sent("a", device.name, batch, NOW, NOW) for device, batch in batches]
    with contextlib.suppress(Crash):
        async with write(engine) as connection:
            await telemetry.take_turn(connection)
            written = await write_samples(connection, sent, now=NOW)
            perhaps_die(dies=dies)
        return [(name, ack) for (_, name), ack in written.acks]
    return []


async def play(engine: AsyncEngine, acts: list[tuple[str, int, int, bool]]) -> list[Device]:
    """`acts`: what happens, to which device, a number that means what it needs, and whether the cloud dies over it."""
    devices = [Device("d0"), Device("d1")]
    earlier: list[tuple[Device, Batch]] = []
    for act, who, number, dies in acts:
        device = devices[who]
        batch = device.batch()
        if act == "sample":
            device.take(number)
        elif act == "drop":
            device.drop(number)
        elif act == "restart":
            device.epoch += 1
        elif act == "roll-up":
            async with write(engine) as connection:
                await roll_up(connection, (FLEET, DEVICES)[who], now=NOW, limit=number + 1)
        elif act == "again" and earlier:
            await deliver(engine, earlier[number % len(earlier)], dies=dies)
        elif batch is not None and act in ("send", "ack-lost"):
            earlier.append((device, batch))
            acks = await deliver(engine, (device, batch), (device, batch), dies=dies)
            for _, ack in acks if act == "send" else ():
                device.acknowledged(ack)
    return devices


async def settle(engine: AsyncEngine, devices: list[Device]) -> None:
    """Everything works again, until nothing waits."""
    for device in devices:
        device.take(0)
        while (batch := device.batch()) is not None:
            for _, ack in await deliver(engine, (device, batch)):
                device.acknowledged(ack)
    for stage in (FLEET, DEVICES):
        async with write(engine) as connection:
            await roll_up(connection, stage, now=NOW)


@settings(max_examples=15)
@given(
    acts=st.lists(
        st.tuples(st.sampled_from(ACTS), st.integers(0, 1), st.integers(0, 9), st.booleans()), min_size=5, max_size=50
    )
)
def test_every_sample_is_in_history_once_or_counted_as_dropped(
    acts: list[tuple[str, int, int, bool]], migrated_file: Path
) -> None:
    async def scenario(file: Path) -> None:
        shutil.copy(migrated_file, file)
        async with registry(f"sqlite+aiosqlite:///{file}", {"g": ["d0", "d1"]}) as engine:
            devices = await play(engine, acts)
            await settle(engine, devices)
            async with read(engine) as connection:
                kept = await telemetry.after(connection, 0, limit=10_000)
            for device in devices:
                held = [one.sample.seq for one in kept if one.device == device.name]
                assert len(held) == len(set(held))
                # One whose acknowledgement was lost may be both: the device cannot know that it is held.
                assert set(held) | device.dropped == set(range(1, device.seq + 1))
            said = await told(engine, HOUR, NOW)
            assert said.counts["samples"] == len(kept)
            assert said.counts.get("dropped", 0) == sum(len(device.dropped) for device in devices)
            assert said.counts.get("requests", 0) == sum(
                device.requests[one.sample.seq] for one in kept for device in devices if device.name == one.device
            )

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(Path(folder) / "registry.db"))
