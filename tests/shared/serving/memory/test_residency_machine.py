"""Anything in any order: models of all sizes come, are asked, held, freed, unloaded, while memory is given and taken."""

import asyncio
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shared.protocol.errors import Refused, TidelineError, Transient
from shared.protocol.reported import ModelState
from shared.serving.decide.residency import Keep, Load, Wait, Wanted, place
from tests.shared.serving.bundles import TENANT, until
from tests.shared.serving.shelf import HandClock, Shelf, asking

NAMES = "abcdef"
names = st.sampled_from(NAMES)
LARGE = 10_000


class Memory(RuleBasedStateMachine):
    """A real engine with real threads and scripted sessions; only time is moved by hand."""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.shelf = Shelf(budget=LARGE, clock=HandClock())
        self.context = self.shelf.engine()
        self.made = self.runner.run(self.context.__aenter__())
        self.asked = []

    def do(self, work):
        """Run `work`, then everything that follows of it without anybody's doing."""

        async def whole():
            result = await work
            await self.rest()
            return result

        return self.runner.run(asyncio.wait_for(whole(), 20))

    async def rest(self):
        """Until nothing moves: what is still open waits for a gate, or for those behind one."""
        still = 0
        while still < 3:
            before = self.look()
            await asyncio.sleep(0.002)
            still = still + 1 if self.look() == before else 0

    def look(self):
        residences = [
            (
                key,
                model.residence.open,
                model.residence.present,
                model.residence.busy,
                model.queue.depth,
                model.queue.running,
            )
            for key, model in self.made.room.models.items()
        ]
        return residences, [task.done() for _, task in self.asked], self.shelf.present, len(self.shelf.loads)

    def model(self, name):
        return self.made.room.models.get((TENANT, name, "1.0.0"))

    @property
    def waits(self):
        """Whether somebody waits for a program that cannot come yet."""
        return any(not task.done() and not self.model(name).residence.open for name, task in self.asked)

    @rule(name=names, size=st.integers(1, 60))
    def load(self, name, size):
        room, now = self.made.room, self.shelf.clock.now
        if self.model(name) is not None or len(room.models) > 4:
            return
        wanted = Wanted(key=(TENANT, name, "1.0.0"), bytes=size, patience_until=now + 1.0)
        if self.waits or isinstance(place(room.residents(), wanted, room.budget, now=now), Wait):
            return  # it would wait for those in use, and this test with it

        async def load():
            if isinstance(place(room.residents(), wanted, room.budget, now=now), Load):
                await self.shelf.load(self.made, name, size)
                return
            with pytest.raises(Refused, match="memory_bytes"):
                await self.shelf.load(self.made, name, size)
            await self.made.unload(TENANT, name, "1.0.0")

        self.do(load())

    @rule(name=names, hold=st.booleans())
    def ask(self, name, hold):
        model = self.model(name)
        if model is None or model.state is not ModelState.READY or len(self.asked) > 8:
            return
        if hold:
            self.shelf.runs.setdefault(name, threading.Event())

        async def ask():
            self.asked.append((name, asking(self.made, name, version="1.0.0")))

        self.do(ask())

    @rule(name=names)
    def free(self, name):
        async def free():
            gate = self.shelf.runs.pop(name, None)
            if gate is not None:
                gate.set()

        self.do(free())

    @rule(name=names, keep=st.sampled_from(Keep))
    def hold(self, name, keep):
        async def hold():
            self.made.hold(TENANT, {(name, "1.0.0"): keep})

        self.do(hold())

    @rule(budget=st.none() | st.integers(30, 150))
    def bound(self, budget):
        async def bound():
            self.made.bound(budget)

        self.do(bound())

    @rule(seconds=st.floats(0.01, 100.0))
    def later(self, seconds):
        async def later():
            self.shelf.clock.now += seconds
            self.made.room.changed()

        self.do(later())

    @rule(name=names)
    def unload(self, name):
        if any(asked == name for asked, _ in self.asked):
            return
        self.do(self.made.unload(TENANT, name, "1.0.0"))

    @rule(number=st.integers(0, 8))
    def cancel(self, number):
        if number >= len(self.asked):
            return

        async def cancel():
            _, task = self.asked.pop(number)
            task.cancel()
            await asyncio.wait({task})

        self.do(cancel())

    @invariant()
    def every_answer_that_is_there_is_right(self):
        for name, task in tuple(self.asked):
            if task.done():
                self.asked.remove((name, task))
                error = task.exception()
                assert error is None or isinstance(error, TidelineError), error
                if error is None:
                    assert task.result() == f"{name}@1.0.0"
                else:
                    # Pinned ones, or a bound that has become too small.
                    assert isinstance(error, Transient), error
                    assert "does not fit" in error.message

    @invariant()
    def nothing_ran_or_went_that_must_not(self):
        assert self.shelf.wrong == []

    @invariant()
    def what_is_believed_to_be_in_memory_is_what_is(self):
        believed = {key[1] for key, model in self.made.room.models.items() if model.residence.present}
        self.runner.run(until(lambda: believed == set(self.shelf.present)))

    @invariant()
    def everything_fits_but_what_may_not_go(self):
        """More than the budget is in memory only while nothing of it may be put out."""
        room = self.made.room
        if room.budget is None:
            return

        def fits():
            may_go = (
                model
                for model in room.models.values()
                if model.residence.present and model.residence.keep is not Keep.PINNED and model.queue.is_idle
            )
            return self.shelf.bytes <= room.budget or not any(may_go)

        self.runner.run(until(fits))

    def teardown(self):
        """Once everybody is let go, everybody is answered."""

        async def end():
            self.made.hold(TENANT, {})
            self.made.bound(None)
            for gate in self.shelf.runs.values():
                gate.set()
            self.shelf.clock.now += 1000.0
            self.made.room.changed()
            for name, task in self.asked:
                assert await asyncio.wait_for(task, 10) == f"{name}@1.0.0"

        try:
            self.do(end())
        finally:
            self.runner.run(self.context.__aexit__(None, None, None))
            self.runner.close()


Memory.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
TestMemory = Memory.TestCase
