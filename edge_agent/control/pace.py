"""How fast bytes come over a network: a bound above, which the cloud sets, and a floor below which nobody waits any longer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.io.clock import Clock
from shared.protocol.errors import Transient, Unavailable

WINDOW_S = 30.0
"""The floor is an average over this long: a shorter stall is nothing."""
SLOWEST = 1024
"""Bytes per second, unless it is set otherwise."""


class Pace:
    """A shared bound on bytes per second: each taker waits for its turn."""

    def __init__(self, rate: int | None, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._next = clock.monotonic()

    def turn(self, size: int) -> float:
        """Take `size` more bytes; the seconds to wait before they are asked for or kept."""
        if self._rate is None:
            return 0.0
        now = self._clock.monotonic()
        self._next = max(self._next, now) + size / max(1, self._rate)
        return self._next - now


class Floor:
    """Each further `rate * window` bytes, over all transfers together, may take `window` seconds. For one use."""

    def __init__(self, rate: int, *, window: float, grain: int = 0) -> None:
        """`grain`: bytes that come at once or not at all; nobody can see half of them on their way."""
        self._window = window + grain / rate
        self._bytes = rate * window
        self._since = 0.0
        self._limit: asyncio.Timeout | None = None

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Cancel what is inside once it is too slow.

        Raises:
            Transient: it was.

        """
        try:
            async with asyncio.timeout(self._window) as self._limit:
                yield
        except TimeoutError as error:
            detail = f"less than {self._bytes:.0f} B came in {self._window:g} s"
            raise Transient(detail, why=Unavailable.UNREACHABLE) from error

    def took(self, size: int, *, wait: float = 0.0) -> None:
        """So many bytes came, and nothing more is wanted for `wait` seconds."""
        limit, now = self._limit, asyncio.get_running_loop().time()
        self._since += size
        if limit is None or limit.expired():
            return
        if self._since >= self._bytes:
            self._since = 0.0
            limit.reschedule(now + wait + self._window)
        elif wait:
            limit.reschedule(max(limit.when() or now, now + wait + self._window))
