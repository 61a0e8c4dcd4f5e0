"""Whether anybody asks this device anything: seen where every request comes in, whatever face it comes through."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing

from edge_agent.serving.busy_poll import BusyPoll
from shared.io.clock import Clock
from shared.serving.answer import Answer, Request, Response


class Activity:
    """Owner of how many requests are under way and when the last one ended. Loop's thread only."""

    def __init__(self, clock: Clock, poll: BusyPoll | None = None) -> None:
        """`poll` is told when the last request ended, and when the next one comes."""
        self._clock = clock
        self._poll = poll
        self._running = 0
        self._ended_at = clock.monotonic()
        self._idle = asyncio.Event()
        self._idle.set()
        self._interrupts: list[Callable[[], None]] = []

    @property
    def quiet_s(self) -> float:
        """Seconds since the last request ended; 0 while one is under way."""
        return 0.0 if self._running else self._clock.monotonic() - self._ended_at

    async def idle(self) -> None:
        """Until no request is under way."""
        await self._idle.wait()

    @contextlib.contextmanager
    def interrupting(self, call: Callable[[], None]) -> Iterator[None]:
        """Within the block, `call` is called the moment a request comes in, before anything is done with it."""
        self._interrupts.append(call)
        try:
            yield
        finally:
            self._interrupts.remove(call)

    def began(self) -> None:
        """A request came in."""
        self._running += 1
        if self._running == 1:
            self._idle.clear()
            if self._poll is not None:
                self._poll.busy()
            for call in tuple(self._interrupts):
                call()

    def ended(self) -> None:
        """It is over, however it ended."""
        self._running -= 1
        if self._running == 0:
            self._ended_at = self._clock.monotonic()
            self._idle.set()
            if self._poll is not None:
                self._poll.idle()


class _Seen:
    """An `Answer` whose requests are seen."""

    def __init__(self, answer: Answer, activity: Activity) -> None:
        self._answer = answer
        self._activity = activity

    async def answer(self, request: Request) -> Response:
        """As what it stands before."""
        self._activity.began()
        try:
            return await self._answer.answer(request)
        finally:
            self._activity.ended()

    async def stream(self, request: Request) -> AsyncGenerator[Response, None]:
        """As what it stands before."""
        self._activity.began()
        try:
            pieces = self._answer.stream(request)
            if isinstance(pieces, AsyncGenerator):
                async with aclosing(pieces):
                    async for piece in pieces:
                        yield piece
            else:
                async for piece in pieces:
                    yield piece
        finally:
            self._activity.ended()


def seen(answer: Answer, activity: Activity) -> Answer:
    """`answer`, with every request told to `activity`."""
    return _Seen(answer, activity)
