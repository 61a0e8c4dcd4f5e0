"""One request on its way through the gateway: what was tried, what time is left, and how it ended."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from cloud_core.gateway.explanations import Attempt
from shared.bundle.manifest import TaskKind
from shared.io.clock import Clock
from shared.protocol.errors import Transient, Unavailable
from shared.serving.answer import Request, Response
from shared.serving.catalog import Listed
from shared.serving.tasks.generation_parameters import wanted_tokens

MAX_TRIES = 2
_AGAIN = (Unavailable.UNREACHABLE, Unavailable.NOT_READY)


class Course:
    """`cost` is in predicted tokens; times are monotonic. `done` is told once, when the `with` block ends."""

    def __init__(
        self,
        request: Request,
        listed: Listed,
        *,
        deadline: float,
        clock: Clock,
        done: Callable[["Course", BaseException | None], None],
    ) -> None:
        self.request = request
        self.listed = listed
        self.deadline = deadline
        self.cost = cost_of(request, listed.task)
        self.began = clock.monotonic()
        self.tried: frozenset[str] = frozenset()
        self.attempts: list[Attempt] = []
        self._clock = clock
        self._done = done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done(self, error)

    def note(self, attempt: Attempt) -> None:
        """Remember a try."""
        self.attempts.append(attempt)

    def may_try_again(self, error: Transient) -> bool:
        """Whether this failure is worth another try, and there is time for one."""
        sent = sum(attempt.replica is not None for attempt in self.attempts)
        return error.why in _AGAIN and 0 < sent < MAX_TRIES and self._left() > 0

    @asynccontextmanager
    async def within_deadline(self) -> AsyncIterator[None]:
        """Cancel the block when the deadline passes.

        Raises:
            Transient: it passed.

        """
        try:
            async with asyncio.timeout(self._left()):
                yield
        except TimeoutError as error:
            raise Transient("the deadline passed", why=Unavailable.DEADLINE) from error

    async def piece(self, pieces: AsyncGenerator[Response, None]) -> Response | None:
        """The next piece of a stream; None at its end."""
        async with self.within_deadline():
            return await anext(pieces, None)

    def _left(self) -> float:
        return self.deadline - self._clock.monotonic()


def cost_of(request: Request, task: TaskKind) -> float:
    """Predicted tokens: characters of text (about one token each in Chinese) and what may be written to it, else elements; never 0."""
    if request.texts is not None:
        written = wanted_tokens(request.parameters) if task is TaskKind.TEXT_GENERATION else 0
        return float(sum(len(text) + 2 + written for text in request.texts))
    return float(max(1, sum(int(array.size) for array in (request.tensors or {}).values())))
