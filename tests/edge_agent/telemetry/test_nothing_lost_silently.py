"""Whatever comes between a device and its cloud, what is received and what is counted as dropped is what was produced."""

import itertools
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.decide.retention import Reason
from edge_agent.telemetry.spool import Spool
from shared.protocol.errors import Transient
from shared.protocol.telemetry import Ack, Batch, Event, Sample
from tests.edge_agent.telemetry.test_spool import TOO_MUCH, maker


class Cloud:
    """What a database holds that upserts on (epoch, seq), and acknowledges from what it holds."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], Sample] = {}

    def ingest(self, batch: Batch) -> Ack:
        for sample in batch.samples:
            assert self.rows.setdefault((batch.epoch, sample.seq), sample) == sample
        return Ack(epoch=batch.epoch, seq=max(seq for epoch, seq in self.rows if epoch == batch.epoch))


class Scene:
    """A device's spool and its cloud, with all that can come between them."""

    def __init__(self, folder: Path) -> None:
        self.folders = (folder / f"life{i}" for i in itertools.count())
        self.folder = next(self.folders)
        self.epochs = itertools.count(1)
        self.cloud = Cloud()
        self.produced = 0
        self.crashes = 0
        self.ack: Ack | None = None
        self.open()

    def open(self) -> None:
        self.spool = Spool(self.folder / "spool.db", most_bytes=100_000, new_epoch=self.epochs.__next__)

    def append(self, number: int) -> None:
        self.produced += 1
        events = (Event(at=1.0, kind="e"),) if number % 3 == 0 else ()
        self.spool.append(maker(number * 1000, events))

    def full(self, number: int) -> None:
        self.produced += 1
        with pytest.raises(Transient):
            self.spool.append(maker(TOO_MUCH))

    def send(self, number: int) -> None:
        """Received, and the acknowledgement is under way; sent again, that is a duplicate."""
        batch = self.spool.oldest(most=number + 1, most_bytes=10**9)
        self.ack = self.cloud.ingest(batch) if batch is not None else self.ack

    def lose(self, number: int) -> None:
        """Sent, and lost on the way."""
        self.spool.oldest(most=number + 1, most_bytes=10**9)

    def acknowledge(self, number: int) -> None:
        """However late, however often."""
        if self.ack is not None:
            self.spool.trim(self.ack)

    def crash(self, number: int) -> None:
        """The process is killed: what is on disk at this moment is all there is."""
        self.crashes += 1
        before, self.folder = self.folder, next(self.folders)
        shutil.copytree(before, self.folder)
        self.spool.close()
        self.open()

    def restart(self, number: int) -> None:
        self.spool.close()
        self.open()

    def settle(self) -> None:
        """Everything is delivered; then one more sample, into a ring with room, says what was dropped by the one before."""
        self.drain()
        self.append(1)
        self.drain()
        self.spool.close()

    def drain(self) -> None:
        while (batch := self.spool.oldest(most=7, most_bytes=10**9)) is not None:
            assert self.spool.trim(self.cloud.ingest(batch)) == len(batch.samples)


steps = st.sampled_from(["append", "append", "append", "full", "send", "lose", "acknowledge", "crash", "restart"])


@settings(max_examples=25)
@given(st.lists(st.tuples(steps, st.integers(0, 40)), max_size=40))
def test_received_and_counted_as_dropped_is_what_was_produced(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, int]]
) -> None:
    scene = Scene(tmp_path_factory.mktemp("spool"))
    for step, number in script:
        getattr(scene, step)(number)
    scene.settle()
    received = scene.cloud.rows.values()
    dropped: dict[str, int] = {}
    for sample in received:
        for reason, count in sample.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    assert dropped.pop(Reason.CRASH, 0) == scene.crashes
    assert len(received) + sum(dropped.values()) == scene.produced
    assert dropped.get(Reason.STORAGE, 0) == sum(step == "full" for step, _ in script)
