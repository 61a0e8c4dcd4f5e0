"""Where results of one request are gathered: all at once, or piece by piece. Loop's thread only."""

import asyncio

import msgspec

from shared.protocol.errors import TidelineError
from shared.serving.answer import Result, Text, Timing


class Gathering:
    """A future for the results of all items, in order; pieces of one item are joined."""

    def __init__(self, count: int) -> None:
        self.future: asyncio.Future[tuple[Result, ...]] = asyncio.get_running_loop().create_future()
        self.queue = 0.0
        self.compute = 0.0
        self._results: list[Result | None] = [None] * count
        self._left = count

    def deliver(self, index: int, result: Result, timing: Timing, *, final: bool) -> None:
        """One result or piece."""
        if self.future.done():
            return
        before = self._results[index]
        self._results[index] = joined(before, result) if before is not None else result
        self.queue = max(self.queue, timing.queue)
        self.compute = max(self.compute, timing.compute)
        if final:
            self._left -= 1
            if self._left == 0:
                self.future.set_result(tuple(result for result in self._results if result is not None))

    def fail(self, index: int, error: TidelineError) -> None:  # noqa: ARG002 - one failed item fails the request
        """The request fails with its first failing item."""
        if not self.future.done():
            self.future.set_exception(error)

    @property
    def timing(self) -> Timing:
        """The largest of the items' times."""
        return Timing(queue=self.queue, compute=self.compute)


class Streaming:
    """The pieces of a one-item request, in order, as they come."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[tuple[Result, Timing, bool] | TidelineError] = asyncio.Queue()

    def deliver(self, index: int, result: Result, timing: Timing, *, final: bool) -> None:  # noqa: ARG002
        """One piece."""
        self._pieces.put_nowait((result, timing, final))

    def fail(self, index: int, error: TidelineError) -> None:  # noqa: ARG002
        """The stream ends with `error`."""
        self._pieces.put_nowait(error)

    async def piece(self) -> tuple[Result, Timing, bool]:
        """The next piece, its times, and whether it is the last; raises what the stream failed with."""
        piece = await self._pieces.get()
        if isinstance(piece, TidelineError):
            raise piece
        return piece


def joined(before: Result, piece: Result) -> Result:
    """Generated text so far and its next piece, as one; other results replace what was there."""
    if isinstance(before, Text) and isinstance(piece, Text):
        return msgspec.structs.replace(
            piece,
            text=before.text + piece.text,
            tokens=before.tokens + piece.tokens,
            prompt_tokens=max(before.prompt_tokens, piece.prompt_tokens),
            truncated=before.truncated or piece.truncated,
        )
    return piece
