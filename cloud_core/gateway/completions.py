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


_SPOKEN = frozenset({"max_tokens", "temperature", "top_p", "stop", "seed"})
"""Parameters that OpenAI's body has fields for; others are ours."""


class _Choice(msgspec.Struct, frozen=True):
    text: str = ""
    finish_reason: str | None = None
    truncated: bool = False


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
    body: dict[str, object] = {"model": model, "prompt": request.texts[0], "stream": True}
    body["stream_options"] = {"include_usage": True}
    body |= {name: value for name, value in request.parameters.items() if name in _SPOKEN}
    ours = {name: value for name, value in request.parameters.items() if name not in _SPOKEN}
    return msgspec.json.encode(body | ({"parameters": ours} if ours else {}))


async def chunks_of(answer: aiohttp.ClientResponse, request: Request) -> AsyncGenerator[Response, None]:
    """The pieces in an event stream. The last one waits for the usage that comes after it, and brings it.

    Raises:
        Corrupt: something else than chunks of a completion.
        Transient: the stream ended, or the replica ended it, before it was done.

    """
    name, _, variant = answer.headers.get(Header.MODEL, "").partition("/")
    version = name.partition("@")[2] or request.version or ""
    last: Text | None = None
    usage = _Usage()

    def piece(text: Text) -> Response:
        return Response(
            id=request.id,
            model=request.model,
            version=version,
            variant=variant,
            digest="",
            task=TaskKind.TEXT_GENERATION.value,
            results=(text,),
            where=Where.CLOUD,
            why=answer.headers.get(Header.WHY, ""),
        )

    async for line in answer.content:
        if not line.startswith(_DATA):
            continue
        data = line[len(_DATA) :].strip()
        if data == _DONE:
            break
        try:
            chunk = _chunk.decode(data)
        except msgspec.DecodeError as error:
            raise Corrupt(f"the stream is not one of completions: {error}") from error
        if chunk.error is not None:
            raise Transient(str(chunk.error.get("message", "the replica gave up")), why=Unavailable.NOT_READY)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text = Text(text=choice.text, finish=choice.finish_reason, truncated=choice.truncated)
            if choice.finish_reason is None:
                yield piece(text)
            else:
                last = text
    if last is None:
        raise Transient("the replica's stream ended before it was done", why=Unavailable.UNREACHABLE)
    yield piece(msgspec.structs.replace(last, tokens=usage.completion_tokens, prompt_tokens=usage.prompt_tokens))
