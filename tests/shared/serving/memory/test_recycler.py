"""A process that grows: one version's session and threads are made anew, and no request notices."""

import asyncio
import multiprocessing
import threading

from prometheus_client import CollectorRegistry

from shared.bundle.manifest import TaskKind
from shared.io.memory import Heap
from shared.protocol.errors import Corrupt
from shared.protocol.reported import ModelState
from shared.serving.arrangement import Arrangement
from shared.serving.decide.recycling import PAUSE_S
from shared.serving.lanes.cores import Cores
from shared.serving.memory.recycler import Recycler
from shared.serving.memory.room import Room
from shared.serving.metrics import EngineMetrics
from shared.serving.sessions.onnx import OnnxSession
from tests.shared.serving.bundles import TENANT, bundle, engine, log_sink, until
from tests.shared.serving.echo import ask, load
from tests.shared.serving.shelf import HandClock, Shelf, answered, asking, listed, sample


def run(main, **options):
    async def whole():
        shelf = Shelf(clock=HandClock(), **options)
        # As if the machine had them: what is made anew must not wait for what it replaces.
        async with shelf.engine(cores=Cores(8)) as made:
            log, lines = log_sink()
            recycler = Recycler(made.room, slack=100, clock=shelf.clock, log=log)
            await main(shelf, made, recycler)
            assert all("model" in line for line in lines)

    asyncio.run(whole())


def sessions_of(shelf, name):
    return [each for each in shelf.sessions if each.name == name]


def test_the_one_that_ran_most_is_made_anew_and_what_it_lost_comes_back():
    async def main(shelf, made, recycler):
        for name in "ab":
            await shelf.load(made, name, 40)
        await recycler.tend()
        shelf.leak = 30
        for name in "aaaab":
            await answered(made, name)
        assert shelf.resident() - 1000 - 80 == 150
        await recycler.tend()
        assert [len(sessions_of(shelf, name)) for name in "ab"] == [2, 1]
        assert [each.is_gone for each in sessions_of(shelf, "a")] == [True, False]
        assert shelf.resident() - 1000 - 80 == 30
        assert sample(shelf, "model_recycled_total", model="a") == 1
        assert await answered(made, "a") == "a@1.0.0"

    run(main, budget=None)


def test_requests_in_flight_and_those_that_come_during_the_change_are_all_answered():
    async def main(shelf, made, recycler):
        await shelf.load(made, "a", 40, arrangement=Arrangement(lanes=2))
        shelf.leak = 200
        shelf.runs["a"] = threading.Event()
        early = [asking(made, "a") for _ in range(3)]
        (old,) = sessions_of(shelf, "a")
        await until(lambda: old.running == 2)
        # Nothing has ended yet, so nothing counts as run: somebody must have.
        made.room.models[TENANT, "a", "1.0.0"].residence.runs = 1
        shelf.comes["a"] = threading.Event()
        tending = asyncio.create_task(recycler.tend())
        await until(lambda: len(sessions_of(shelf, "a")) == 2)
        during = [asking(made, "a") for _ in range(3)]
        shelf.comes["a"].set()
        new = sessions_of(shelf, "a")[1]
        await until(lambda: new.running == 2)
        assert not old.is_gone, "it still computes"
        shelf.runs["a"].set()
        assert set(await asyncio.gather(*early, *during)) == {"a@1.0.0"}
        await tending
        assert (old.is_gone, new.is_gone) == (True, False)
        assert await answered(made, "a") == "a@1.0.0"

    run(main, budget=None)


def test_threads_are_fresh_ones():
    async def main(shelf, made, recycler):
        await shelf.load(made, "a", 40, arrangement=Arrangement(lanes=2))
        before = lanes()
        assert len(before) == 2
        shelf.leak = 200
        await answered(made, "a")
        await recycler.tend()
        # A thread that has said its last word is listed a moment longer.
        await until(lambda: len(lanes()) == 2)
        assert not lanes() & before

    run(main, budget=None)


def lanes():
    return {thread.ident for thread in threading.enumerate() if thread.name.startswith("a@1.0.0/")}


def test_where_two_do_not_fit_an_idle_one_goes_and_comes_back_when_it_is_asked_for():
    async def main(shelf, made, recycler):
        await shelf.load(made, "a", 60)
        shelf.leak = 200
        await answered(made, "a")
        await recycler.tend()
        assert shelf.present == []
        assert listed(made, "a").state is ModelState.READY
        assert await answered(made, "a") == "a@1.0.0"
        assert shelf.most == 60

    run(main, budget=100)


def test_where_two_do_not_fit_a_busy_one_stays_until_there_is_a_better_moment():
    async def main(shelf, made, recycler):
        await shelf.load(made, "a", 60)
        shelf.leak = 200
        await answered(made, "a")
        shelf.runs["a"] = threading.Event()
        busy = asking(made, "a")
        await until(lambda: shelf.sessions[-1].running)
        await recycler.tend()
        assert shelf.present == ["a"]
        shelf.runs["a"].set()
        await busy
        await recycler.tend()
        assert shelf.present == []

    run(main, budget=100)


def test_in_vain_it_is_not_tried_again_at_once():
    async def main(shelf, made, recycler):
        await shelf.load(made, "a", 40)
        made.room.base -= 500  # something else has grown
        for _ in range(13):
            await answered(made, "a")
            shelf.clock.now += PAUSE_S / 2
            await recycler.tend()
        assert sample(shelf, "model_recycled_total", model="a") == 3

    run(main, budget=None)


def test_a_program_that_cannot_be_made_anew_goes_on_running():
    async def main(shelf, made, recycler):
        await shelf.load(made, "a", 40)
        shelf.leak = 200
        await answered(made, "a")
        shelf.failing["a"] = Corrupt("it cannot be loaded")
        await recycler.tend()
        assert await answered(made, "a") == "a@1.0.0"
        assert listed(made, "a").state is ModelState.READY
        assert sample(shelf, "model_recycled_total", model="a") is None

    run(main, budget=None)


def leak(tmp_path):
    """In a process of its own: others' memory would come and go beside it."""

    class Leaking(OnnxSession):
        def __init__(self, path):
            super().__init__(path, threads=1)
            self.lost = []

        def run(self, feeds):
            self.lost.append(bytearray(b"x") * (2 << 20))
            return super().run(feeds)

        def close(self):
            # Siblings share it, as they share a runtime's own memory.
            self.lost.clear()
            super().close()

    async def main():
        heap, clock, (log, _) = Heap(), HandClock(), log_sink()
        metrics = EngineMetrics(CollectorRegistry())
        room = Room(clock=clock, log=log, metrics=metrics.residency, heap=heap)
        recycler = Recycler(room, slack=96 << 20, clock=clock, log=log)
        sessions = lambda path, variant, arrangement: Leaking(path)  # noqa: E731
        async with engine(clock=clock, metrics=metrics, room=room, sessions=sessions) as made:
            await load(made, tmp_path, bundle(tmp_path, "cls", TaskKind.TEXT_CLASSIFICATION))
            before = heap.resident()
            for _ in range(100):
                await made.answer(ask("cls", "好"))
            grown = heap.resident()
            assert grown - before > 160 << 20
            await recycler.tend()
            assert room.models[TENANT, "cls", "1.0.0"].residence.recycled == 1
            # The end of one thread's heap, up to glibc's threshold for trimming it, is kept for later.
            assert heap.resident() - before < 80 << 20
            assert (await made.answer(ask("cls", "好"))).results[0].label == "正面"

    asyncio.run(main())


def test_a_real_process_that_leaks_gets_its_memory_back(tmp_path):
    """Real sessions, real threads, the process's own resident memory; only the leak is made."""
    child = multiprocessing.get_context("spawn").Process(target=leak, args=(tmp_path,))
    child.start()
    child.join(90)
    assert child.exitcode == 0
