"""One request at two places at the same time: the first answer that stands wins, and the other attempt is cancelled.

Invariants: the second attempt begins only when the first has had its time, and at most once; where it may not begin yet, it is asked
for again while the first has not ended; when `run` returns or raises, neither runs any more.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from shared.protocol.errors import Refusal, Refused, TidelineError
from shared.serving.answer import Response

NOT_THE_CALLER = frozenset({Refusal.UNAUTHENTICATED, Refusal.FORBIDDEN, Refusal.NOT_FOUND})
"""Refusals of the cloud that say something about this device there, not about the request."""

AGAIN_S = 0.05
"""Between two looks at whether the second attempt may begin; the device's last chance is not much longer."""
Attempt = Coroutine[Any, Any, Response]


class Race:
    """One request's. `decided`: an answer won; an attempt that is cancelled then was overtaken, and nobody went away.

    `unsure`: an answer that came and did not stand while the other was awaited.
    """

    def __init__(self) -> None:
        self.decided = False
        self.unsure: Response | None = None

    async def run(
        self, first: Attempt, *, wait: float, second: Callable[[], Attempt | None], stands: Callable[[Response], bool]
    ) -> Response:
        """The answer.

        Args:
            first: the attempt at the place that was chosen.
            wait: seconds it has to itself.
            second: begins the other attempt; None where there is none to be made now, and it is asked again after `AGAIN_S`.
            stands: whether an answer is good enough while the other may still come.

        Raises:
            TidelineError: what the first attempt failed with, where neither answered.

        """
        attempts = [asyncio.create_task(first, name="attempt")]
        try:
            await asyncio.wait(attempts, timeout=wait)
            while len(attempts) == 1 and not attempts[0].done():
                other = second()
                if other is None:
                    await asyncio.wait(attempts, timeout=AGAIN_S)
                else:
                    attempts.append(asyncio.create_task(other, name="hedge"))
            return await self._winner(attempts, stands)
        finally:
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)

    async def _winner(self, attempts: list[asyncio.Task[Response]], stands: Callable[[Response], bool]) -> Response:
        pending = set(attempts)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            # In the order they were asked: of two that came together, the first one's counts.
            for attempt in [each for each in attempts if each in done]:
                error = attempt.exception()
                if error is not None:
                    if _is_final(error) or (attempt is attempts[0] and _is_the_callers(error)):
                        raise error
                elif stands(attempt.result()):
                    self.decided = True
                    return attempt.result()
                else:
                    self.unsure = attempt.result()
        if self.unsure is not None:
            return self.unsure
        return attempts[0].result()


def _is_final(error: BaseException) -> bool:
    """A bug: whatever the other place says, it must come to light."""
    return not isinstance(error, TidelineError)


def _is_the_callers(error: BaseException) -> bool:
    return isinstance(error, Refused) and error.kind not in NOT_THE_CALLER
