"""One program that is wanted in memory, and who waits for it."""

import asyncio
from collections.abc import Awaitable, Callable

from shared.serving.lanes.queue import Permit
from shared.serving.versions.loaded import LoadedModel


class Want:
    """Made, started and settled by `residency`; loop's thread only."""

    def __init__(
        self, model: LoadedModel, load: Callable[[], Awaitable[None]], *, since: float, seconds: float
    ) -> None:
        """`load` brings it in; it is expected to take `seconds`."""
        self.model = model
        self.load = load
        self.since = since
        self.started = False
        self.wished = False
        """Nobody waits for it, and it is brought in all the same."""
        self.waiting: list[Permit | None] = []
        """Permits that enter the moment it is there."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Everybody who waited may have gone when it fails.
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._seconds = seconds
        self._began = 0.0

    def starts(self, now: float) -> None:
        """It is being brought in."""
        self.started = True
        self._began = now

    def left(self, now: float) -> float:
        """Seconds it is still expected to take, once it is its turn."""
        return max(0.0, self._seconds - (now - self._began)) if self.started else self._seconds
