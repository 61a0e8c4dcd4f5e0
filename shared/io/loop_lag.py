"""What requests lose to an event loop that has more to do than time.

Such a loop lets requests wait in its sockets, where nothing sees them, and then in each of its turns: by its own clock the server answers
in time, by the client's too late, and what was computed was computed for nobody. How late a timer runs tells how long a turn takes.
It is watched only while requests come: an idle loop sleeps.
"""

import asyncio
from collections import deque

from shared.io.clock import Clock

TURNS_AHEAD = 3.0
"""Turns from a request that was just read to its answer: one to its handler, two to whom it waits for and back."""
LATE_S = 0.02
"""Losses from which on deadlines are at stake."""
EVERY_S = 0.01
QUIET_BEATS = 100
"""Beats without a request after which the watch rests."""
STANDING_BEATS = 3
"""Beats in a row that were late before lateness is said to stand."""
FADING = 0.5
"""What a beat in time leaves of the last one's lateness: one hiccup is soon forgotten."""


class LoopLag:
    """Loop's thread only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._turn = 0.0
        self._due = 0.0
        self._quiet = QUIET_BEATS
        self._beats: deque[float] = deque(maxlen=STANDING_BEATS)

    def ahead(self) -> float:
        """Seconds that a request which is seen now will wait for turns of the loop before its answer is out."""
        return TURNS_AHEAD * self.turn()

    def turn(self) -> float:
        """Seconds that a turn takes beyond a timer's due, and that a request has waited when it is seen.

        From the first call on the loop is watched, until nobody asks for a while.
        """
        if self._quiet >= QUIET_BEATS:
            self._quiet = 0
            self._turn = 0.0
            self._beats.append(0.0)
            self._beat_later()
            return 0.0
        self._quiet = 0
        # A beat that is overdue tells of this very turn.
        return max(self._turn, self._clock.monotonic() - self._due)

    def standing(self) -> float:
        """Seconds that every turn has taken lately, as far as it is watched: what one hiccup leaves at 0."""
        return min(self._beats, default=0.0)

    def _beat_later(self) -> None:
        self._due = self._clock.monotonic() + EVERY_S
        asyncio.get_running_loop().call_later(EVERY_S, self._beat)

    def _beat(self) -> None:
        late = self._clock.monotonic() - self._due
        self._turn = max(late, self._turn * FADING)
        self._beats.append(late)
        self._quiet += 1
        if self._quiet < QUIET_BEATS:
            self._beat_later()
