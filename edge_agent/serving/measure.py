"""Keeping the device's predictions honest: what is sent away for its predicted time is now and then computed here for nobody.

A prediction is only corrected by running. Without this, one slow spell would send every request away for ever, from a device
that idles. At most one measurement runs at a time, and all together take at most `DUTY` of the time.
"""

import asyncio

import msgspec

from edge_agent.decide.routing import LocalState
from shared.io.clock import Clock
from shared.protocol.errors import TidelineError
from shared.serving.answer import Request
from shared.serving.engine import Engine

DUTY = 0.2
LEAST_PAUSE_S = 0.1


class Measurements:
    """Owner of the one measurement that may run."""

    def __init__(self, engine: Engine, *, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._running: asyncio.Task[None] | None = None
        self._next_at = 0.0

    def consider(self, request: Request, local: LocalState | None, *, now: float) -> None:
        """Measure `request` where nothing waits and it seems to be late all the same."""
        if local is None or request.deadline is None or now + local.completion < request.deadline:
            return
        if request.version is not None:
            # What it would have waited for may be a load: the next request finds it done.
            self._engine.wish(request.tenant, request.model, request.version)
        if local.expected_wait > 0.0 or now < self._next_at or (self._running is not None and not self._running.done()):
            return
        unhurried = msgspec.structs.replace(request, deadline=None)
        self._running = asyncio.create_task(self._measure(unhurried), name="measure")

    async def _measure(self, request: Request) -> None:
        began = self._clock.monotonic()
        try:
            await self._engine.measure(request)
        except TidelineError:
            # Whoever asks for it to be computed is told what is wrong with it; here nobody asked.
            return
        finally:
            took = self._clock.monotonic() - began
            self._next_at = began + took + max(LEAST_PAUSE_S, took * (1 / DUTY - 1))
