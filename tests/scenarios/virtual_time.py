"""An event loop in which nothing takes time but what says so: when nobody can run, the clock jumps to the next timer."""

import asyncio
import selectors
from typing import Any

WALL = 1_800_000_000.0
"""Unix seconds at the beginning: a whole minute, so that windows of the wall clock begin with the scenario."""


class _Jumping(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everybody waits, and nobody will ever wake them")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Owner of the time in it."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class VirtualClock:
    """The clock of the running loop."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return WALL + self.monotonic()
