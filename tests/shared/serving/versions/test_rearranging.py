"""A version goes over to another arrangement while it answers: no request fails, and where it cannot it stays as it was."""

import asyncio
import threading

import numpy as np
import pytest

from shared.bundle.manifest import TaskKind, TensorSpec
from shared.protocol.errors import Corrupt
from shared.serving.answer import Request
from shared.serving.arrangement import Arrangement
from shared.serving.sessions.scripted import ScriptedSession
from tests.shared.serving.bundles import IDS, TENANT, bundle, engine

GOLDEN = [{"text": "好", "expect": {"label": "正面"}}, {"text": "坏", "expect": {"label": "负面"}}]
SPEC = TensorSpec(name="input_ids", datatype="INT64", shape=(-1, -1))


def classified(feeds, *, wrong=False):
    good = (feeds["input_ids"] == IDS["好"]).any(axis=1) != wrong
    return {"logits": np.where(good[:, None], [-4.0, 4.0], [4.0, -4.0]).astype(np.float32)}


class Opened:
    """Sessions that know how they were opened; `wrong` threads answer something else, `broken` ones do not load."""

    def __init__(self, *, wrong=(), broken=()):
        self.wrong = wrong
        self.broken = broken
        self.made = []
        self.closed = []
        self.rows = []

    def __call__(self, path, variant, how):
        opened = self

        class Session(ScriptedSession):
            def close(self):
                opened.closed.append(how)

            def sibling(self):
                return self

        def script(feeds):
            opened.rows.append((how.threads, threading.current_thread().name, feeds["input_ids"].shape[0]))
            return classified(feeds, wrong=how.threads in opened.wrong)

        self.made.append(how)
        failing = Corrupt("no") if how.threads in self.broken else None
        return Session(script, inputs=(SPEC,), failing=failing)


def ask(text="好"):
    return Request(id="r", tenant=TENANT, model="m", texts=(text,))


async def loaded(made, folder, how):
    manifest = bundle(folder, "m", TaskKind.TEXT_CLASSIFICATION, golden=GOLDEN)
    model = await made.load(TENANT, manifest, "d" * 64, folder, "cpu", arrangement=how)
    made.activate(TENANT, {"m": "1.0.0"})
    return model


def run(work, **sessions):
    async def main():
        opened = Opened(**sessions)
        async with engine(sessions=opened) as made:
            await work(made, opened)

    asyncio.run(asyncio.wait_for(main(), 60))


ONE, TWO = Arrangement(), Arrangement(lanes=2, threads=3, rows=5)


def test_no_request_notices(tmp_path):
    async def work(made, opened):
        model = await loaded(made, tmp_path, ONE)
        stop = asyncio.Event()
        answered = []

        async def client():
            while not stop.is_set():
                response = await made.answer(ask())
                answered.append(response.results[0].label)
                await asyncio.sleep(0)

        clients = [asyncio.create_task(client()) for _ in range(4)]
        await asyncio.sleep(0.05)
        for how in (TWO, ONE, TWO):
            before = len(answered)
            assert await made.rearrange(TENANT, "m", "1.0.0", how, tmp_path)
            while len(answered) < before + 20:
                await asyncio.sleep(0.001)
        stop.set()
        await asyncio.gather(*clients)
        assert set(answered) == {"正面"}
        assert (model.arrangement, model.queue.lanes, model.queue.budget.rows) == (TWO, 2, 5)
        assert opened.made == [ONE, TWO, ONE, TWO]
        assert len({name for threads, name, _ in opened.rows if threads == 3}) >= 2

    run(work)


def test_what_does_not_load_changes_nothing(tmp_path):
    async def work(made, opened):
        model = await loaded(made, tmp_path, ONE)
        with pytest.raises(Corrupt, match="no"):
            await made.rearrange(TENANT, "m", "1.0.0", TWO, tmp_path)
        assert (model.arrangement, model.queue.lanes, model.queue.budget.rows) == (ONE, 1, 32)
        assert (await made.answer(ask())).results[0].label == "正面"

    run(work, broken=(3,))


def test_what_answers_otherwise_than_its_golden_set_is_taken_back(tmp_path):
    async def work(made, opened):
        model = await loaded(made, tmp_path, ONE)
        with pytest.raises(Corrupt, match="golden") as caught:
            await made.rearrange(TENANT, "m", "1.0.0", TWO, tmp_path)
        assert caught.value.code == "golden-differs"
        assert model.arrangement == ONE
        assert opened.made == [ONE, TWO, ONE]
        assert (await made.answer(ask())).results[0].label == "正面"

    run(work, wrong=(3,))


def test_what_is_not_there_or_has_no_room_for_both_stays(tmp_path):
    async def work(made, opened):
        assert not await made.rearrange(TENANT, "m", "1.0.0", TWO, tmp_path)
        model = await loaded(made, tmp_path, ONE)
        made.room.budget = int(model.residence.footprint.bytes * 1.5)
        assert not await made.rearrange(TENANT, "m", "1.0.0", TWO, tmp_path)
        assert (model.arrangement, opened.made) == (ONE, [ONE])

    run(work)


def test_a_program_that_is_not_in_memory_comes_back_like_that(tmp_path):
    async def work(made, opened):
        model = await loaded(made, tmp_path, ONE)
        async with made.room.lock:
            await made.room.evict((model.key,))
        assert await made.rearrange(TENANT, "m", "1.0.0", TWO, tmp_path)
        assert opened.made == [ONE]
        assert (await made.answer(ask())).results[0].label == "正面"
        assert opened.made == [ONE, TWO]

    run(work)


def test_a_real_program(tmp_path):
    async def main():
        async with engine() as made:
            model = await loaded(made, tmp_path, ONE)
            assert await made.rearrange(TENANT, "m", "1.0.0", Arrangement(lanes=2, threads=1, spinning=True), tmp_path)
            assert (await made.answer(ask("坏"))).results[0].label == "负面"
            assert model.queue.lanes == 2

    asyncio.run(asyncio.wait_for(main(), 60))
