"""What requests lose to an event loop that has more to do than time.

Such a loop lets requests wait in its sockets, where nothing sees them, and then in each of its turns: by its own clock the server answers
in time, by the client's too late, and what was computed was computed for nobody. How late a timer runs tells how long a turn takes.
It is watched only while requests come: an idle loop sleeps.
"""

import asyncio

from shared.io.clock import Clock

TURNS = 4.0
"""Turns of the loop from a request in its socket to the answer in it: read, parsed, handed to its handler, resolved."""
LATE_S = 0.02
"""Losses from which on deadlines are at stake."""
EVERY_S = 0.01
QUIET_BEATS = 100
"""Beats without a request after which the watch rests."""
FADING = 0.5
"""What a beat in time leaves of the last one's lateness: one hiccup is soon forgotten."""


class LoopLag:
    """Loop's thread only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._turn = 0.0
        self._due = 0.0
        self._quiet = QUIET_BEATS

    def is_late(self) -> bool:
        """Whether it is worth reckoning with."""
        return self.seconds() >= LATE_S

    def seconds(self) -> float:
        """What a request that is seen now loses; from the first call on the loop is watched, until nobody asks for a while."""
        if self._quiet >= QUIET_BEATS:
            self._quiet = 0
            self._turn = 0.0
            self._beat_later()
            return 0.0
        self._quiet = 0
        # A beat that is overdue tells of this very turn.
        return TURNS * max(self._turn, self._clock.monotonic() - self._due)

    def _beat_later(self) -> None:
        self._due = self._clock.monotonic() + EVERY_S
        asyncio.get_running_loop().call_later(EVERY_S, self._beat)

    def _beat(self) -> None:
        self._turn = max(self._clock.monotonic() - self._due, self._turn * FADING)
        self._quiet += 1
        if self._quiet < QUIET_BEATS:
            self._beat_later()
