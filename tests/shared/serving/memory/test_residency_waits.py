"""Programs that are on their way into memory: deadlines, callers who leave, loads that fail, versions that go."""

import asyncio
import threading

import pytest

from shared.protocol.errors import Corrupt, Overloaded, Transient, Unavailable
from shared.protocol.reported import ModelState
from tests.shared.serving.bundles import TENANT, until
from tests.shared.serving.shelf import HandClock, answered, asking, listed, on_shelf, one_in_the_way, sample, three


def test_a_load_that_would_take_too_long_is_counted_into_the_wait():
    async def main(shelf, made):
        clock = shelf.clock
        await three(shelf, made)
        model = made.room.models[TENANT, "a", "1.0.0"]
        model.residence.load_s = 2.0
        assert made.load_of(TENANT, "a", "1.0.0").expected_wait == pytest.approx(2.0)
        assert made.load_of(TENANT, "b", "1.0.0").expected_wait == 0.0
        shelf.comes["a"] = threading.Event()
        with pytest.raises(Overloaded) as caught:
            await answered(made, "a", version="1.0.0", deadline=clock.now + 1.0)
        assert caught.value.retry_after >= 2.0
        # Who went away because of the load finds it done the next time.
        await until(lambda: len(shelf.sessions) == 4)
        assert made.residency.expected(model, clock.now) == pytest.approx(2.0)
        clock.now += 1.5
        assert made.residency.expected(model, clock.now) == pytest.approx(0.5)
        shelf.comes["a"].set()
        await made.residency.settled()
        assert await answered(made, "a", version="1.0.0", deadline=clock.now + 1.0) == "a@1.0.0"

    on_shelf(main, budget=100, clock=HandClock())


def test_a_deadline_that_passes_during_the_load_is_a_missed_one_and_the_load_goes_on():
    async def main(shelf, made):
        await three(shelf, made)
        shelf.comes["a"] = threading.Event()
        with pytest.raises(Transient) as caught:
            await answered(made, "a", version="1.0.0", deadline=shelf.clock.monotonic() + 0.05)
        assert caught.value.why is Unavailable.DEADLINE
        shelf.comes["a"].set()
        await made.residency.settled()
        assert "a" in shelf.present

    on_shelf(main, budget=100)


def test_nothing_is_brought_in_for_somebody_who_is_gone():
    async def main(shelf, made):
        busy, waiting = await one_in_the_way(shelf, made)
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait({waiting})
        shelf.runs["b"].set()
        await busy
        await made.residency.settled()
        assert shelf.present == ["b"]
        assert shelf.loads == ["a", "b"]

    on_shelf(main, budget=100)


def test_a_program_that_no_longer_loads_fails_its_version_and_every_request_hears_why():
    async def main(shelf, made):
        await three(shelf, made)
        shelf.failing["a"] = Corrupt("m.onnx cannot be loaded")
        found = await asyncio.gather(*(answered(made, "a") for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in found] == [Corrupt] * 3
        assert (listed(made, "a").state, listed(made, "a").reason) == (ModelState.FAILED, "m.onnx cannot be loaded")
        assert sample(shelf, "model_reloads_total", model="a", outcome="failed") == 1
        # Whoever loads versions may: from the beginning.
        del shelf.failing["a"]
        await shelf.load(made, "a", 40)
        assert await answered(made, "a") == "a@1.0.0"

    on_shelf(main, budget=100)


def test_a_program_for_which_there_is_no_memory_now_is_tried_again_later():
    async def main(shelf, made):
        clock = shelf.clock
        await three(shelf, made)
        shelf.failing["a"] = Corrupt("m.onnx cannot be loaded: RuntimeException: std::bad_alloc")
        for _ in range(3):
            with pytest.raises(Transient) as caught:
                await answered(made, "a")
            assert caught.value.why is Unavailable.NOT_READY
        assert listed(made, "a").state is ModelState.READY
        assert sample(shelf, "model_reloads_total", model="a", outcome="failed") == 1, "and not once for every request"
        del shelf.failing["a"]
        clock.now += 2.0
        assert await answered(made, "a") == "a@1.0.0"

    on_shelf(main, budget=100, clock=HandClock())


def test_a_version_that_is_unloaded_while_it_is_waited_for():
    async def main(shelf, made):
        await three(shelf, made)
        shelf.comes["a"] = threading.Event()
        waiting = asking(made, "a")
        await until(lambda: len(shelf.sessions) == 4)
        unloading = asyncio.create_task(made.unload(TENANT, "a", "1.0.0", patience=0.01))
        await asyncio.sleep(0.05)
        shelf.comes["a"].set()
        await unloading
        with pytest.raises(Transient):
            await waiting
        await made.residency.settled()
        assert "a" not in shelf.present

    on_shelf(main, budget=100)


def test_unloading_lets_those_who_wait_for_the_program_finish():
    async def main(shelf, made):
        await three(shelf, made)
        shelf.comes["a"] = threading.Event()
        waiting = asking(made, "a")
        await until(lambda: len(shelf.sessions) == 4)
        unloading = asyncio.create_task(made.unload(TENANT, "a", "1.0.0"))
        await asyncio.sleep(0.01)
        shelf.comes["a"].set()
        assert await waiting == "a@1.0.0"
        await unloading
        assert "a" not in shelf.present

    on_shelf(main, budget=100)


def test_a_version_whose_loading_is_given_up_leaves_nothing_in_memory():
    async def main(shelf, made):
        shelf.comes["a"] = threading.Event()
        loading = asyncio.create_task(shelf.load(made, "a", 40))
        await until(lambda: shelf.sessions)
        await asyncio.sleep(0.01)
        loading.cancel()
        await asyncio.wait({loading})
        shelf.comes["a"].set()
        await made.residency.settled()
        await until(lambda: shelf.sessions[0].is_gone)
        assert made.room.residents() == []
        await shelf.load(made, "a", 40)
        assert await answered(made, "a") == "a@1.0.0"

    on_shelf(main, budget=50)
