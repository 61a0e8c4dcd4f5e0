"""Threads and sessions made anew when the process has grown: loaded beside what runs, swapped, and the old let go. No request notices."""

import asyncio

import msgspec

from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import TidelineError
from shared.serving.decide.recycling import History, Recycle, Suspect, recycle
from shared.serving.decide.residency import Load, Wanted, place
from shared.serving.memory.room import Room
from shared.serving.versions.loaded import LoadedModel

EVERY_S = 5.0


class Recycler:
    """Looks at the process's memory now and then; loop's thread only. Without a heap to measure it does nothing."""

    def __init__(self, room: Room, *, slack: int, clock: Clock, log: Log) -> None:
        """`slack`: bytes by which the process may grow beyond its own and what its programs should take."""
        self.slack = slack
        self._room = room
        self._clock = clock
        self._log = log
        self._history = History()

    async def tend_forever(self) -> None:
        """Look every `EVERY_S` seconds."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.tend()

    async def tend(self) -> None:
        """Look once, and make at most one version anew."""
        room = self._room
        if room.heap is None:
            return
        async with room.lock:
            growth = room.growth()
            if growth > self.slack:
                # What is merely kept for later is nobody's growth.
                await room.trim()
                growth = room.growth()
            now = self._clock.monotonic()
            suspects = [
                Suspect(key=model.key, runs=model.residence.runs, loaded_at=model.residence.loaded_at)
                for model in room.models.values()
                if model.residence.open
            ]
            verdict = recycle(suspects, self._history, growth=growth, bound=self.slack, now=now)
            if isinstance(verdict, Recycle) and await self._renewed(room.models[verdict.key], verdict, now):
                self._history = verdict.history

    async def _renewed(self, model: LoadedModel, verdict: Recycle, now: float) -> bool:
        """Whether there was room for it; both are in memory for a moment."""
        room, residence = self._room, model.residence
        beside = [
            msgspec.structs.replace(each, in_use=True) if each.key == model.key else each for each in room.residents()
        ]
        wanted = Wanted(key=model.key, bytes=residence.footprint.bytes, patience_until=now)
        fits = place(beside, wanted, room.budget, now=now)
        if fits != Load() and model.queue.is_idle:
            # Nobody would notice, and nobody else has to go: it comes back when it is asked for.
            await room.evict((model.key,))
        elif isinstance(fits, Load):
            await room.evict(fits.evict)
            try:
                before = await model.program.renew()
            except TidelineError as error:
                # What runs goes on running.
                self._log.error("model not made anew", model=model.name, version=model.version, error=error.message)
                return True
            await room.let_go(model, before)
            await room.trim()
            residence.runs, residence.loaded_at = 0, self._clock.monotonic()
        else:
            return False
        residence.recycled += 1
        room.metrics.recycled.labels(model.name, model.version).inc()
        self._log.warning(
            "model made anew: the process has grown",
            model=model.name, version=model.version, growth=verdict.growth, bound=verdict.bound,
        )  # fmt: skip
        return True
