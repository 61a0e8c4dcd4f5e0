"""More models than fit into memory: who comes, who goes, who waits."""

import asyncio
import threading

import pytest

from shared.protocol.errors import Refused
from shared.protocol.reported import ModelState
from shared.serving.decide.residency import TENURE, Keep
from tests.shared.serving.bundles import TENANT, until
from tests.shared.serving.shelf import HandClock, answered, asking, listed, on_shelf, one_in_the_way, sample, three


def test_what_was_used_longest_ago_goes_and_comes_back_when_it_is_asked_for():
    async def main(shelf, made):
        await three(shelf, made)
        assert shelf.present == ["b", "c"]
        # It answers after a short load: for a client it is ready, and who asks is told where it is.
        gone = listed(made, "a")
        assert (gone.state, gone.reason, gone.resident) == (ModelState.READY, "", False)
        assert listed(made, "b").resident
        assert made.statistics(TENANT, "a", "1.0.0").resident_bytes == 0
        made.activate(TENANT, {"a": "1.0.0"})
        assert await answered(made, "a") == "a@1.0.0"
        assert shelf.present == ["a", "c"]
        assert made.statistics(TENANT, "a", "1.0.0").resident_bytes == 40
        assert shelf.most <= 100
        told = {each["name"]: each for each in made.room.story()["versions"]}
        assert [told[name]["resident"] for name in "abc"] == [True, False, True]
        assert (told["a"]["loads"], told["a"]["evictions"]) == (2, 1)
        assert sample(shelf, "model_evictions_total", model="a") == 1
        assert sample(shelf, "model_reloads_total", model="a", outcome="ok") == 1
        assert sample(shelf, "model_resident_bytes", model="b") == 0
        assert sample(shelf, "model_resident_bytes", model="a") == 40

    on_shelf(main, budget=100, clock=HandClock())


def test_many_that_ask_for_the_same_share_one_load():
    async def main(shelf, made):
        await three(shelf, made)
        texts = await asyncio.gather(*(answered(made, "a") for _ in range(20)))
        assert set(texts) == {"a@1.0.0"}
        assert shelf.loads.count("a") == 2

    on_shelf(main, budget=100)


def test_what_is_in_use_stays_whoever_waits_and_what_waits_comes_when_it_is_idle():
    async def main(shelf, made):
        busy, waiting = await one_in_the_way(shelf, made)
        for _ in range(50):
            await asyncio.sleep(0)
        assert shelf.present == ["b"]
        shelf.runs["b"].set()
        assert await asyncio.gather(busy, waiting) == ["b@1.0.0", "a@1.0.0"]
        assert shelf.present == ["a"]

    on_shelf(main, budget=100)


def test_a_model_that_is_never_idle_makes_room_all_the_same_and_gets_its_turn_again():
    async def main(shelf, made):
        clock = shelf.clock
        for name in "ab":
            await shelf.load(made, name, 60)

        async def busy_until(waiting):
            """One request for `b` follows the other, and the next is there before one is answered, until `waiting` is done."""
            asked = [asking(made, "b"), asking(made, "b")]
            while not waiting.done():
                assert await asked.pop(0) == "b@1.0.0"
                asked.append(asking(made, "b"))
                await asyncio.sleep(0)
                clock.now += 0.01
            return await asyncio.gather(*asked)

        for _ in range(3):
            waiting = asking(made, "a")
            assert await asyncio.wait_for(busy_until(waiting), 20) == ["b@1.0.0"] * 2
            assert await waiting == "a@1.0.0"
        assert shelf.most <= 100

    on_shelf(main, budget=100, clock=HandClock())


def test_pinned_ones_stay_and_what_does_not_fit_beside_them_is_told_the_figures():
    async def main(shelf, made):
        await shelf.load(made, "a", 60)
        made.hold(TENANT, {("a", "1.0.0"): Keep.PINNED})
        await shelf.load(made, "b", 30)
        await shelf.load(made, "c", 40)
        assert shelf.present == ["a", "c"]
        with pytest.raises(Refused, match="beside what is pinned") as caught:
            await shelf.load(made, "d", 50)
        assert (caught.value.field, caught.value.value) == ("memory_bytes", 50)
        assert caught.value.allowed.startswith("40 B")
        assert listed(made, "d").state is ModelState.FAILED
        made.hold(TENANT, {})
        await made.unload(TENANT, "d", "1.0.0")
        await shelf.load(made, "d", 50)
        assert "a" not in shelf.present

    on_shelf(main, budget=100)


def test_pins_that_do_not_fit_together_only_go_last():
    async def main(shelf, made):
        await three(shelf, made)
        made.hold(TENANT, {("a", "1.0.0"): Keep.PINNED, ("b", "1.0.0"): Keep.PINNED, ("c", "1.0.0"): Keep.PINNED})
        for name in "abc":
            assert await answered(made, name) == f"{name}@1.0.0"

    on_shelf(main, budget=100)


def test_what_is_held_last_goes_after_what_was_used_later():
    async def main(shelf, made):
        await shelf.load(made, "a", 40)
        made.hold(TENANT, {("a", "1.0.0"): Keep.LAST})
        shelf.clock.now += 1.0
        for name in "bc":
            await shelf.load(made, name, 40)
            shelf.clock.now += 1.0
        assert shelf.present == ["a", "c"]

    on_shelf(main, budget=100, clock=HandClock())


def test_one_that_is_larger_than_everything_is_refused_with_the_figures():
    async def main(shelf, made):
        with pytest.raises(Refused) as caught:
            await shelf.load(made, "a", 101)
        assert (caught.value.field, caught.value.value, caught.value.allowed) == (
            "memory_bytes",
            101,
            "100 B at the most",
        )
        assert shelf.loads == []

    on_shelf(main, budget=100)


def test_less_memory_puts_out_what_is_idle_at_once_and_more_lets_it_back():
    async def main(shelf, made):
        await three(shelf, made)
        made.bound(50)
        await made.residency.settled()
        assert shelf.present == ["c"]
        made.bound(1_000_000)
        for name in "ab":
            await answered(made, name)
        assert shelf.bytes <= 100, "the process's own bound holds whatever a generation allows"

    on_shelf(main, budget=100, clock=HandClock())


def test_what_is_known_of_a_program_is_corrected_by_what_the_process_grows():
    async def main(shelf, made):
        await shelf.load(made, "a", 40)
        residence = made.room.models[TENANT, "a", "1.0.0"].residence
        assert residence.footprint.bytes == 40
        # It has grown since somebody described it.
        shelf.sizes["a"] = 80
        seen = []
        for _ in range(12):
            await made.room.evict(((TENANT, "a", "1.0.0"),))
            assert await answered(made, "a") == "a@1.0.0"
            seen.append(residence.footprint.bytes)
        assert seen == sorted(seen)
        assert 75 <= seen[-1] <= 80

    on_shelf(main, budget=100)


def test_the_tenure_of_what_was_just_loaded_is_respected_while_it_is_in_use():
    async def main(shelf, made):
        clock = shelf.clock
        for name in "ab":
            await shelf.load(made, name, 60)
        for model in made.room.models.values():
            model.residence.load_s = 10.0
        shelf.runs["b"] = threading.Event()
        busy = asking(made, "b")
        await until(lambda: shelf.sessions[-1].running)
        waiting = asking(made, "a")
        await asyncio.sleep(0.01)
        clock.now += 10.0 * TENURE - 1.0
        made.room.changed()
        await asyncio.sleep(0.01)
        assert made.room.models[TENANT, "b", "1.0.0"].residence.open
        clock.now += 2.0
        made.room.changed()
        await until(lambda: made.room.models[TENANT, "b", "1.0.0"].residence.gated)
        late = asking(made, "b")
        await asyncio.sleep(0.01)
        shelf.runs["b"].set()
        assert await asyncio.gather(busy, waiting, late) == ["b@1.0.0", "a@1.0.0", "b@1.0.0"]

    on_shelf(main, budget=100, clock=HandClock())


def test_what_is_too_much_while_it_is_in_use_goes_when_it_is_idle_though_nobody_else_asks():
    async def main(shelf, made):
        await shelf.load(made, "a", 40)
        shelf.runs["a"] = threading.Event()
        busy = asking(made, "a")
        await until(lambda: shelf.sessions[-1].running)
        made.bound(30)
        await asyncio.sleep(0.01)
        assert shelf.present == ["a"]
        shelf.runs["a"].set()
        assert await busy == "a@1.0.0"
        await made.residency.settled()
        assert shelf.present == []

    on_shelf(main, budget=100)
