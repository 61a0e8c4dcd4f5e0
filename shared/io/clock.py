"""Time as an argument: the two clocks a shell reads, once per decision cycle, and hands to decisions.

`wall` is Unix seconds and may jump; `monotonic` never goes back and is what deadlines are measured on.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """What shells read; tests bring one they move by hand."""

    def wall(self) -> float:
        """Unix seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; the same source as the event loop's `time()`."""
        ...


class SystemClock:
    """The machine's own clocks. The library's own functions: a request reads them some twenty times."""

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
