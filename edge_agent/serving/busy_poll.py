"""Waiting awake: for a moment after a request the event loop polls instead of sleeping, where the next one has come that soon of late.

A processor that sleeps takes long to wake, a virtual one above all, and finds its caches cold: what takes 250 µs right after other work
takes twice that after a pause of 100 µs (docs/performance.md). One caller after another is what an edge mostly sees, so a moment's
polling halves what each waits beside the computation. It costs at most `horizon` seconds of one core per request, only where requests
follow one another faster than that, and never while anything is computed: then the cores have better things to do.
"""

import asyncio

from edge_agent.decide.polling import NEVER, is_near, observed
from shared.io.clock import Clock


class BusyPoll:
    """Loop's thread only. Told when the device becomes idle, and when it is idle no more."""

    def __init__(self, clock: Clock, *, horizon: float) -> None:
        """`horizon`: seconds it may poll on end; 0 for never."""
        self._clock = clock
        self._horizon = horizon
        self._gap = NEVER
        self._since = -NEVER
        self._until = -NEVER
        self._turning = False

    def busy(self) -> None:
        """A request came to an idle device."""
        self._until = -NEVER
        if self._horizon:
            self._gap = observed(self._gap, self._clock.monotonic() - self._since, self._horizon)

    def idle(self) -> None:
        """The last request ended."""
        if not self._horizon:
            return
        self._since = self._clock.monotonic()
        if is_near(self._gap, self._horizon):
            self._until = self._since + self._horizon
            if not self._turning:
                self._turning = True
                self._turn()

    def _turn(self) -> None:
        # A callback that is always due keeps the loop from sleeping in its selector; it looks at its sockets between two of them.
        if self._clock.monotonic() < self._until:
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self._turning = False
