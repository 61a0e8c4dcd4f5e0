"""Models whose programs come and go: sessions that know when they are in memory, and a heap that is the sum of them."""

import asyncio
import contextlib
import threading
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from shared.bundle.manifest import Manifest, Requirements, TaskKind, Variant
from shared.io.clock import SystemClock
from shared.serving.answer import Text
from shared.serving.memory.room import Room
from shared.serving.metrics import EngineMetrics
from shared.serving.sessions.scripted import ScriptedSession
from tests.shared.serving.bundles import TENANT, engine, log_sink, until
from tests.shared.serving.echo import INPUTS, EchoTask, ask

BASE = 1000


class HandClock(SystemClock):
    """Monotonic time that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Shelf:
    """Makes the sessions of models.

    `runs` and `comes` hold a model's runs and loads until their event is set, `failing` makes its loads raise. `leak`: bytes that
    every run loses, and that its session gives back when it is closed.
    """

    trims = True

    def __init__(self, *, budget: int | None, clock=None):
        self.budget = budget
        self.clock = clock or SystemClock()
        self.sizes, self.runs, self.comes, self.failing = {}, {}, {}, {}
        self.sessions, self.loads, self.wrong = [], [], []
        self.leak = self.most = 0
        self.registry = CollectorRegistry()

    @property
    def present(self):
        """Names of what is in memory, sorted."""
        return sorted(each.name for each in self.sessions if each.is_in_memory)

    @property
    def bytes(self):
        return sum(each.size for each in self.sessions if each.is_in_memory)

    def resident(self):
        return BASE + self.bytes + sum(each.leaked for each in self.sessions if each.is_in_memory)

    def trim(self):
        return None

    def loading(self):
        return contextlib.nullcontext()

    @contextlib.asynccontextmanager
    async def engine(self, **options):
        """An engine over this shelf; nothing may have run or gone while it must not."""
        metrics = EngineMetrics(self.registry)
        room = Room(clock=self.clock, log=log_sink()[0], metrics=metrics.residency, budget=self.budget, heap=self)
        async with engine(
            clock=self.clock,
            metrics=metrics,
            room=room,
            sessions=lambda path, variant, arrangement: ShelfSession(self, path.name),
            tasks=lambda manifest, folder: NamedTask(manifest),
            **options,
        ) as made:
            try:
                yield made
            finally:
                for gate in (*self.runs.values(), *self.comes.values()):
                    gate.set()
        assert self.wrong == []
        assert self.present == []

    async def load(self, made, name, size, *, version="1.0.0", **options):
        """Load a model that takes `size` bytes."""
        self.sizes[name] = size
        variant = Variant(
            name="cpu", runtime="onnx", precision="fp32", files=(name,), requirements=Requirements(memory_bytes=size)
        )
        manifest = Manifest(name=name, version=version, task=TaskKind.TENSOR, variants=(variant,), files=())
        return await made.load(TENANT, manifest, "d" * 64, Path("/nowhere"), "cpu", **options)


class ShelfSession(ScriptedSession):
    """One program of a shelf."""

    def __init__(self, shelf, name):
        super().__init__(self.answer, inputs=INPUTS)
        self.shelf, self.name, self.size = shelf, name, shelf.sizes[name]
        self.loaded, self.running, self.leaked = False, 0, 0
        self.lanes = {self}
        shelf.sessions.append(self)

    @property
    def is_in_memory(self):
        """Until the last of its lanes lets go of it."""
        return self.loaded and bool(self.lanes)

    @property
    def is_gone(self):
        return not self.lanes

    def load(self):
        shelf = self.shelf
        if (gate := shelf.comes.get(self.name)) is not None:
            gate.wait(10)
        if (failing := shelf.failing.get(self.name)) is not None:
            raise failing
        self.loaded = True
        shelf.loads.append(self.name)
        shelf.most = max(shelf.most, shelf.bytes)

    def answer(self, feeds):
        shelf = self.shelf
        if not self.is_in_memory:
            shelf.wrong.append(f"{self.name} ran while it was not in memory")
        self.running += 1
        self.leaked += shelf.leak
        if (gate := shelf.runs.get(self.name)) is not None:
            while not gate.wait(0.002) and not self._interrupted:
                pass
        self.running -= 1
        return {"piece": np.array(".")}

    def sibling(self):
        return Beside(self)

    def close(self, lane=None):
        self.lanes.discard(lane or self)
        if self.running and not self.lanes:
            self.shelf.wrong.append(f"{self.name} was closed while it ran")


class Beside:
    """Another lane of a session."""

    def __init__(self, session):
        self.inputs, self.outputs, self.run = session.inputs, session.outputs, session.run
        self.interrupt, self.resume = session.interrupt, session.resume
        self.session = session
        session.lanes.add(self)

    def load(self):
        return None

    def close(self):
        self.session.close(self)


class NamedTask(EchoTask):
    """Answers with the model's own name, so that an answer of another is seen."""

    def __init__(self, manifest):
        self.text = f"{manifest.name}@{manifest.version}"

    def steps(self, run, batch):
        for _ in super().steps(run, batch):
            yield [Text(text=self.text, tokens=1, finish="stop") for _ in batch]


async def answered(made, name, **fields):
    """The text of one answer."""
    return (await made.answer(ask(name, "x", **fields))).results[0].text


def asking(made, name, **fields):
    """A request that has begun."""
    return asyncio.create_task(answered(made, name, **fields))


def listed(made, name):
    (found,) = (each for each in made.models(TENANT) if each.name == name)
    return found


def sample(shelf, metric, **labels):
    return shelf.registry.get_sample_value(f"tideline_{metric}", {"version": "1.0.0"} | labels)


def on_shelf(main, **options):
    """Run `main(shelf, made)`."""

    async def whole():
        shelf = Shelf(**options)
        async with shelf.engine() as made:
            await main(shelf, made)

    asyncio.run(whole())


async def three(shelf, made):
    """`a`, `b` and `c` of 40 bytes each, loaded and used in this order."""
    for name in "abc":
        await shelf.load(made, name, 40)
        if isinstance(shelf.clock, HandClock):
            shelf.clock.now += 1.0


async def one_in_the_way(shelf, made):
    """A request for `b` that runs until `shelf.runs["b"]` is set, and one for `a`, which fits only without `b`."""
    for name in "ab":
        await shelf.load(made, name, 60)
    shelf.runs["b"] = threading.Event()
    busy = asking(made, "b")
    await until(lambda: shelf.sessions[-1].running)
    return busy, asking(made, "a")
