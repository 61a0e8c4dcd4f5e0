"""Server-Sent Events of completions: `data: {…}` per piece, `data: [DONE]` at the end.

The first piece is awaited before the response begins, so that a refusal still has its own status; what fails later is sent
as an error event, since the status is out already.
"""

from collections.abc import AsyncGenerator, AsyncIterator
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


def choice(form: Form, index: int, result: Text, *, piece: bool) -> dict[str, object]:
    """One choice, or one piece of it."""
    body: dict[str, object] = {"index": index, "logprobs": None, "finish_reason": result.finish}
    if form is Form.COMPLETION:
        return body | {"text": result.text}
    return body | {"delta" if piece else "message": {"role": "assistant", "content": result.text}}


async def stream(
    request: web.Request, pieces: AsyncIterator[Response], form: Form, *, created: int
) -> web.StreamResponse:
    """Send every piece as it comes."""
    try:
        first = await anext(pieces)
        return await _send(request, first, pieces, form, created)
    finally:
        # A client that went away leaves the loop early: closing tells the engine that nobody waits any more.
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


async def _send(
    request: web.Request, first: Response, pieces: AsyncIterator[Response], form: Form, created: int
) -> web.StreamResponse:
    response = web.StreamResponse(
        headers=headers_of(first) | {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    await response.prepare(request)
    await response.write(_event(first, form, created))
    try:
        async for piece in pieces:
            await response.write(_event(piece, form, created))
    except TidelineError as error:
        await response.write(b"data: " + _encode(openai_envelope(error)) + b"\n\n")
    else:
        await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _event(piece: Response, form: Form, created: int) -> bytes:
    result = piece.results[0]
    if not isinstance(result, Text):
        raise Corrupt("the model gave no text")
    document = {
        "id": piece.id,
        "object": form.piece,
        "created": created,
        "model": piece.model,
        "choices": [choice(form, 0, result, piece=True)],
    }
    return b"data: " + _encode(document) + b"\n\n"
