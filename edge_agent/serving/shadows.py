"""Copies of answered requests for the policy's shadow version: computed while the device idles, compared, counted, and forgotten.

Invariants:

* a request is never delayed or refused for a copy: copies start only while no request is being answered, and when one comes
  they are ended before it is admitted;
* at most `MOST` are under way; what is not computed to its end is counted as dropped, with its reason;
* callers see nothing of it: no header, no story, no request counted.
"""

import asyncio
from functools import partial
from typing import NamedTuple

import msgspec

from edge_agent.decide import shadow as decide
from edge_agent.decide.shadow import Drop, Result
from edge_agent.serving.likeness import pairs_of
from edge_agent.telemetry.meters import AgentMetrics
from edge_agent.telemetry.metrics import Interval, ShadowKey
from shared.io.clock import Clock
from shared.protocol.errors import TidelineError, Transient, Unavailable
from shared.protocol.reported import ModelState
from shared.serving.answer import Request, Response
from shared.serving.decide.caching import is_drawn
from shared.serving.engine import Engine
from shared.serving.metrics import outcome_of

PATIENCE_S = 30.0
"""A copy that takes longer has failed."""
SAME = "same"


class _Seen(NamedTuple):
    """What a copy's answer was worth."""

    result: Result
    reason: str


class Shadows:
    """Owner of the copies under way."""

    def __init__(self, engine: Engine, *, metrics: AgentMetrics, interval: Interval, clock: Clock) -> None:
        self._engine = engine
        self._metrics = metrics
        self._interval = interval
        self._clock = clock
        self._copies: set[asyncio.Task[_Seen]] = set()

    @property
    def running(self) -> bool:
        """Whether a copy is under way, which `make_way` has to end before a request is decided."""
        return bool(self._copies)

    async def make_way(self) -> None:
        """End every copy, and wait until what it held is free: a few turns of the loop, never a computation."""
        for copy in self._copies:
            copy.cancel()
        await asyncio.wait(self._copies)

    def consider(self, request: Request, response: Response, version: str, *, under_way: int) -> None:
        """Compute a copy of `request`, which the device answered with `response`, by `version`, if there is time for it.

        `under_way` counts the requests that are being answered now. An answer drawn by chance has nothing to be compared with.
        """
        if version == response.version or is_drawn(request.parameters):
            return
        load = self._engine.load_of(request.tenant, request.model, version)
        ready = load is not None and load.state is ModelState.READY
        dropped = decide.drop(ready=ready, under_way=under_way, copies=len(self._copies))
        if dropped is not None:
            self._count(request.model, version, _Seen(Result.DROPPED, dropped.value))
            return
        copy = msgspec.structs.replace(request, version=version, deadline=self._clock.monotonic() + PATIENCE_S)
        task = asyncio.create_task(self._compare(copy, response), name="shadow")
        self._copies.add(task)
        task.add_done_callback(partial(self._ended, request.model, version))

    async def close(self) -> None:
        """End every copy."""
        if self._copies:
            await self.make_way()

    async def _compare(self, copy: Request, real: Response) -> _Seen:
        try:
            async with asyncio.timeout(PATIENCE_S):
                shadow = await self._engine.copy(copy)
        except TimeoutError:
            return _Seen(Result.FAILED, Unavailable.DEADLINE.value)
        except TidelineError as error:
            if isinstance(error, Transient) and error.why is Unavailable.NOT_READY:
                # Unloaded meanwhile, or not in memory, from where nothing is driven out for a copy.
                return _Seen(Result.DROPPED, Drop.NOT_READY.value)
            return _Seen(Result.FAILED, outcome_of(error))
        difference = decide.difference(pairs_of(real.results, shadow.results))
        return _Seen(Result.AGREE, SAME) if difference is None else _Seen(Result.DIFFER, difference.value)

    def _ended(self, model: str, version: str, task: asyncio.Task[_Seen]) -> None:
        self._copies.discard(task)
        if task.cancelled():
            # Perhaps before it began, so that nothing in the task itself could have counted it.
            self._count(model, version, _Seen(Result.DROPPED, Drop.REQUEST_CAME.value))
        else:
            self._count(model, version, task.result())

    def _count(self, model: str, version: str, seen: _Seen) -> None:
        self._metrics.shadowed(model, version, seen.result, seen.reason)
        self._interval.shadowed(ShadowKey(model, version, seen.result.value, seen.reason))
