"""Input texts in the log, for a program whose setting `log_inputs` asks for them; nothing else ever logs an input.

It stands around a program's `Answer`, so that every face is covered by one place. The level is debug, and what is written is
bounded: the first few texts, the first few hundred characters of each.
"""

from collections.abc import AsyncIterator

from shared.io.logs import Log
from shared.serving.answer import Answer, Request, Response

MOST_TEXTS = 8
MOST_CHARACTERS = 200


class InputLog:
    """An `Answer` that writes the texts of each request to the log before it asks the one it was given."""

    def __init__(self, answer: Answer, log: Log) -> None:
        self._answer = answer
        self._log = log

    async def answer(self, request: Request) -> Response:
        """The whole answer."""
        self._write(request)
        return await self._answer.answer(request)

    def stream(self, request: Request) -> AsyncIterator[Response]:
        """The answer in pieces: the other's own iterator, so that closing it reaches whoever computes."""
        self._write(request)
        return self._answer.stream(request)

    def _write(self, request: Request) -> None:
        texts = request.texts or ()
        self._log.debug(
            "inputs",
            model=request.model,
            version=request.version,
            count=request.count,
            texts=[text[:MOST_CHARACTERS] for text in texts[:MOST_TEXTS]],
        )


def with_inputs_logged(answer: Answer, log: Log, *, on: bool) -> Answer:
    """`answer` itself unless the setting is on."""
    return InputLog(answer, log) if on else answer
