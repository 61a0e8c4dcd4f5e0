"""Server-Sent Events of completions: `data: {…}` per piece, the usage where it was asked for, `data: [DONE]` at the end.

The first piece is awaited before the response begins, so that a refusal still has its own status; what fails later is sent
as an error event, since the status is out already.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from enum import Enum

import msgspec
from aiohttp import web

from shared.io.web import openai_envelope
from shared.protocol.errors import Corrupt, TidelineError
from shared.serving.answer import Response, Text
from shared.serving.faces.context import headers_of

_encode = msgspec.json.Encoder().encode


class Form(Enum):
    """Which API is spoken: names of a whole answer and of a piece."""

    COMPLETION = ("text_completion", "text_completion")
    CHAT = ("chat.completion", "chat.completion.chunk")

    @property
    def whole(self) -> str:
        """`object` of an answer that comes at once."""
        return self.value[0]

    @property
    def piece(self) -> str:
        """`object` of a piece."""
        return self.value[1]


def choice(form: Form, index: int, result: Text) -> dict[str, object]:
    """One choice of an answer that comes at once. `truncated`, where a prompt was cut, is ours."""
    body = _choice(index, result)
    if form is Form.COMPLETION:
        return body | {"text": result.text}
    return body | {"message": {"role": "assistant", "content": result.text}}


def usage_of(results: Sequence[Text]) -> dict[str, int]:
    """Tokens of all choices together."""
    prompt, done = sum(result.prompt_tokens for result in results), sum(result.tokens for result in results)
    return {"prompt_tokens": prompt, "completion_tokens": done, "total_tokens": prompt + done}


async def stream(
    request: web.Request, pieces: AsyncIterator[Response], form: Form, *, created: int, usage: bool = False
) -> web.StreamResponse:
    """Send every piece as it comes; at the end its `usage` where it is wanted."""
    try:
        first = await anext(pieces)
        return await _send(request, first, pieces, _Events(form, created, usage=usage))
    finally:
        # A client that went away leaves the loop early: closing tells the engine that nobody waits any more.
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


class _Events:
    """The events of one answer, and what it took so far."""

    def __init__(self, form: Form, created: int, *, usage: bool) -> None:
        self._form = form
        self._created = created
        self._usage = usage
        self._begun = False
        self._total = Text(text="")

    def piece(self, response: Response) -> bytes:
        """One piece."""
        result = response.results[0]
        if not isinstance(result, Text):
            raise Corrupt("the model gave no text")
        self._total = Text(
            text="",
            tokens=self._total.tokens + result.tokens,
            prompt_tokens=max(self._total.prompt_tokens, result.prompt_tokens),
        )
        body = _choice(0, result)
        if self._form is Form.COMPLETION:
            body["text"] = result.text
        else:
            # Only the first piece says whose turn it is.
            body["delta"] = ({} if self._begun else {"role": "assistant"}) | {"content": result.text}
        self._begun = True
        return self._event(response, [body], {"usage": None} if self._usage else {})

    def end(self, last: Response) -> bytes:
        """The usage where it is wanted, and the word that this was all."""
        done = b"data: [DONE]\n\n"
        return self._event(last, [], {"usage": usage_of([self._total])}) + done if self._usage else done

    def _event(self, response: Response, choices: Sequence[object], more: Mapping[str, object]) -> bytes:
        document: dict[str, object] = {
            "id": response.id,
            "object": self._form.piece,
            "created": self._created,
            "model": response.model,
            "choices": choices,
        }
        return b"data: " + _encode(document | dict(more)) + b"\n\n"


async def _send(
    request: web.Request, first: Response, pieces: AsyncIterator[Response], events: _Events
) -> web.StreamResponse:
    response = web.StreamResponse(
        headers=headers_of(first) | {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    beginning = events.piece(first)
    await response.prepare(request)
    await response.write(beginning)
    last = first
    try:
        async for piece in pieces:
            last = piece
            await response.write(events.piece(piece))
    except TidelineError as error:
        await response.write(b"data: " + _encode(openai_envelope(error)) + b"\n\n")
    else:
        await response.write(events.end(last))
    await response.write_eof()
    return response


def _choice(index: int, result: Text) -> dict[str, object]:
    body: dict[str, object] = {"index": index, "logprobs": None, "finish_reason": result.finish}
    if result.truncated and result.finish is not None:
        body["truncated"] = True
    return body
