"""The streaming half of a forward: OpenAI's `/v1/completions` as Server-Sent Events, read back into typed pieces."""

from collections.abc import AsyncGenerator

import aiohttp
import msgspec

from shared.bundle.manifest import TaskKind
from shared.protocol.errors import Corrupt, Refusal, Refused, Transient, Unavailable
from shared.protocol.topics import Header
from shared.serving.answer import Request, Response, Text, Where

_DATA = b"data:"
_DONE = b"[DONE]"


class _Choice(msgspec.Struct, frozen=True):
    text: str = ""
    finish_reason: str | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: dict[str, object] | None = None


_chunk = msgspec.json.Decoder(_Chunk)


def completion_body(request: Request) -> bytes:
    """The JSON that asks a replica for a stream of one text.

    Raises:
        Refused: not one text.

    """
    if request.texts is None or len(request.texts) != 1:
        raise Refused("only one text can be streamed", kind=Refusal.UNPROCESSABLE, field="texts", value=request.count)
    model = f"{request.model}@{request.version}" if request.version else request.model
    return msgspec.json.encode({**request.parameters, "model": model, "prompt": request.texts[0], "stream": True})


async def chunks_of(answer: aiohttp.ClientResponse, request: Request) -> AsyncGenerator[Response, None]:
    """The pieces in an event stream.

    Raises:
        Corrupt: something else than chunks of a completion.
        Transient: the stream ended, or the replica ended it, before it was done.

    """
    name, _, variant = answer.headers.get(Header.MODEL, "").partition("/")
    version = name.partition("@")[2] or request.version or ""
    async for line in answer.content:
        if not line.startswith(_DATA):
            continue
        data = line[len(_DATA) :].strip()
        if data == _DONE:
            return
        try:
            chunk = _chunk.decode(data)
        except msgspec.DecodeError as error:
            raise Corrupt(f"the stream is not one of completions: {error}") from error
        if chunk.error is not None:
            raise Transient(str(chunk.error.get("message", "the replica gave up")), why=Unavailable.NOT_READY)
        for choice in chunk.choices:
            usage = chunk.usage or _Usage()
            yield Response(
                id=request.id,
                model=request.model,
                version=version,
                variant=variant,
                digest="",
                task=TaskKind.TEXT_GENERATION.value,
                results=(
                    Text(
                        text=choice.text,
                        tokens=usage.completion_tokens,
                        prompt_tokens=usage.prompt_tokens,
                        finish=choice.finish_reason,
                    ),
                ),
                where=Where.CLOUD,
                why=answer.headers.get(Header.WHY, ""),
            )
    raise Transient("the replica's stream ended before it was done", why=Unavailable.UNREACHABLE)
