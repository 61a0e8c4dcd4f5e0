"""Measuring while nobody asks anything: after a while of quiet, ended by any request, taken up again, and once only."""

import asyncio
import contextlib
import tempfile

import msgspec
import pytest
import structlog

from edge_agent.control.arrangements import Arrangements
from edge_agent.control.subjects import Subject, space_of
from edge_agent.control.tuner import State, Surroundings, Tuner, details_of
from edge_agent.decide.arranging import Arranged, Fixed, Source, Wishes
from edge_agent.decide.idleness import Because
from edge_agent.serving.activity import Activity
from shared.bundle.manifest import File, Manifest, TaskKind, Variant
from shared.io.clock import SystemClock
from shared.protocol.errors import Corrupt, Transient, Unavailable
from shared.serving.arrangement import Arrangement
from shared.serving.decide.tuned import Machine, Record
from shared.serving.decide.tuning import Left, Why, advanced
from shared.serving.decide.ways import Way
from shared.serving.tuning.records import FILE, Records

LOG = structlog.wrap_logger(structlog.PrintLogger())
HERE = Machine(machine="x86_64", model="A", features=(), cores=2, runtimes={"onnxruntime": "1"})
FORM = Variant(name="cpu-int8", runtime="onnx", precision="int8", files=("m.onnx",))


@pytest.fixture(autouse=True)
def _a_turn_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def subject(name, **more):
    manifest = Manifest(
        name=name, version="1.0.0", task=TaskKind.TEXT_CLASSIFICATION, variants=(FORM,),
        files=(File(path="m.onnx", size=0, sha256="0" * 64, chunks=()),),
    )  # fmt: skip
    return Subject(manifest, f"digest-of-{name}", {}, (FORM,))._replace(**more)


class World:
    """An agent around a tuner; every run waits for `gate`, and says one thing more than what it was given."""

    def __init__(self, folder, *served, after_s=0.0, measures=True, wishes=Wishes()):  # noqa: B008
        self.served = list(served)
        self.clock = SystemClock()
        self.activity = Activity(self.clock)
        self.records = Records(folder, LOG)
        self.arrangements = Arrangements(self.records, HERE, wishes)
        self.gate = asyncio.Event()
        self.started = asyncio.Queue()
        self.given = []
        self.ended = []
        self.followed = []
        self.changed = asyncio.Event()
        self.error = None
        self.used = 0.0
        self.converging = False
        around = Surroundings(self._served, self._follow, lambda: self.converging, self._used)
        self.tuner = Tuner(
            self.arrangements, self.activity, around, measures=measures, after_s=after_s, most_used=0.3, memory_bytes=1 << 30,
            changed=self.changed.set, clock=self.clock, log=LOG, measure=self.measure,
        )  # fmt: skip

    async def _served(self):
        return self.served

    async def _follow(self, one):
        self.followed.append(one.label)

    async def _used(self):
        return self.used

    async def measure(self, one, arrangements, *, memory_bytes, progress, keep, now):
        self.given.append((one.label, len(progress.out)))
        keep(advanced(progress, Left(way=Way(variant=str(len(progress.out))), code="x")))
        self.started.put_nowait(one.label)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.ended.append(one.label)
            raise
        if self.error is not None:
            raise self.error
        return Record(
            digest=one.digest, name=one.manifest.name, version="1.0.0", machine=HERE, space=space_of(one, arrangements),
            way=Way(variant="cpu-int8", arrangement=Arrangement(lanes=2)), reason=Why.MEASURED, rows=(), at=now(), spent=1.0,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.tuner.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()

    async def until(self, holds):
        """What the tuner does is looked at, since it tells nobody."""
        async with asyncio.timeout(20):
            while not holds(self.tuner.doing):
                await asyncio.sleep(0.005)


def run(work):
    asyncio.run(asyncio.wait_for(work(), 60))


def test_every_served_version_is_measured_once_and_remembered(tmp_path):
    async def work():
        world = World(tmp_path, subject("a"), subject("b"))
        world.gate.set()
        async with world.running():
            await world.until(lambda doing: doing.state is State.DONE and len(world.given) == 2)
            world.arrangements.news.set()
            await asyncio.sleep(0)
            await world.until(lambda doing: doing.state is State.DONE)
        assert world.given == [("a@1.0.0", 0), ("b@1.0.0", 0)]
        assert {record.name for record in world.records.read()} == {"a", "b"}
        assert world.changed.is_set()
        again = World(tmp_path, subject("a"), subject("b"))
        async with again.running():
            await again.until(lambda doing: doing.state is State.DONE and again.followed)
        assert again.given == []
        found = details_of(again.arrangements, again.tuner)
        assert [(each["name"], each["variant"]) for each in found["found"]] == [("a", "cpu-int8"), ("b", "cpu-int8")]

    run(work)


def test_a_request_ends_a_run_at_once_and_it_goes_on_when_it_is_quiet_again(tmp_path):
    async def work():
        world = World(tmp_path, subject("a"), after_s=0.05)
        async with world.running():
            await world.started.get()
            assert world.tuner.doing.state is State.MEASURING
            world.activity.began()
            # Within the very next turns of the loop, and nothing is measured as long as the request lasts.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert world.ended == ["a@1.0.0"]
            await asyncio.sleep(0.1)
            assert world.started.empty()
            world.activity.ended()
            await world.started.get()
            assert world.given == [("a@1.0.0", 0), ("a@1.0.0", 1)]
            world.gate.set()
            await world.until(lambda doing: doing.state is State.DONE)
        assert len(world.records.read()) == 1

    run(work)


def test_it_waits_and_says_for_what(tmp_path):
    async def work():
        for because, change in (
            (Because.REQUESTS, {"after_s": 3600.0}),
            (Because.BUSY, {"used": 0.9}),
            (Because.CONVERGING, {"converging": True}),
        ):
            world = World(tmp_path, subject("a"), after_s=change.pop("after_s", 0.0))
            for name, value in change.items():
                setattr(world, name, value)
            async with world.running():
                await world.until(lambda doing: doing.state is State.WAITING)
                assert (world.tuner.doing.because, world.tuner.doing.model) == (because, "a@1.0.0")
            assert world.given == []

    run(work)


def test_stopping_the_agent_ends_the_run(tmp_path):
    async def work():
        world = World(tmp_path, subject("a"))
        async with world.running():
            await world.started.get()
        assert world.ended == ["a@1.0.0"]
        assert world.records.read() == ()

    run(work)


def test_what_cannot_be_measured_is_not_tried_again_and_the_rest_is(tmp_path):
    async def work():
        world = World(tmp_path, subject("a"))
        world.error = Corrupt("no")
        world.gate.set()
        async with world.running():
            await world.until(lambda doing: doing.state is State.DONE and world.given)
            world.error = None
            world.served.append(subject("b"))
            world.arrangements.news.set()
            await world.until(lambda doing: len(world.given) == 2 and doing.state is State.DONE)
        assert [label for label, _ in world.given] == ["a@1.0.0", "b@1.0.0"]

    run(work)


def test_a_disk_that_fails_for_now_is_looked_at_again(tmp_path):
    async def work():
        world = World(tmp_path, subject("a"))
        world.gate.set()
        served, looks = world.served, []

        async def failing():
            looks.append(1)
            if len(looks) == 1:
                raise Transient("the disk", why=Unavailable.STORAGE)
            return served

        world.tuner._around = world.tuner._around._replace(served=failing)
        async with world.running():
            await world.until(lambda doing: looks)
            world.arrangements.news.set()
            await world.until(lambda doing: doing.state is State.DONE and world.given)

    run(work)


def test_a_disk_that_is_full_stops_nothing(tmp_path):
    async def work():
        world = World(tmp_path, subject("a"))
        world.gate.set()

        def full(record):
            raise OSError(28, "No space left on device")

        world.records.add = full
        async with world.running():
            await world.until(lambda doing: doing.state is State.DONE and world.given)

    run(work)


def test_what_the_fleet_was_told_is_not_measured_again(tmp_path):
    async def work():
        world = World(tmp_path, subject("a", told=Arrangement()), subject("b"))
        told = Arranged(arrangement=Arrangement(), source=Source.TOLD)
        world.arrangements.is_loaded("a", "1.0.0", told)
        world.gate.set()
        async with world.running():
            await world.until(lambda doing: doing.state is State.DONE and world.given)
        assert [label for label, _ in world.given] == ["b@1.0.0"]

    run(work)


def test_who_does_not_measure_still_follows(tmp_path):
    async def work():
        world = World(tmp_path, subject("a"), measures=False)
        async with world.running():
            await world.until(lambda doing: world.followed)
        assert world.given == []

    run(work)


def test_another_share_of_the_machine_is_measured_anew(tmp_path):
    async def work():
        for wishes in (Wishes(), Wishes(fixed=Fixed(lanes=1)), Wishes(dedicated=True)):
            world = World(tmp_path, subject("a"), wishes=wishes)
            world.gate.set()
            async with world.running():
                await world.until(lambda doing, world=world: doing.state is State.DONE and world.given)
        assert len(msgspec.json.decode((tmp_path / FILE).read_bytes())["records"]) == 3

    run(work)
