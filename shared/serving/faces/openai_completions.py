"""OpenAI's completions and chat completions, at once or as Server-Sent Events.

What this server cannot do is refused by name (`echo`, `logprobs`, `tools`, …) unless it is given the value that asks for nothing;
fields that change no answer (`user`, `metadata`, …) are ignored, as OpenAI's own servers do. Unlike there, `temperature` is 0
unless given, and `max_tokens` 64 (`tasks/generation_parameters`).
"""

from collections.abc import Sequence

import msgspec
from aiohttp import web

from shared.bundle.manifest import TaskKind
from shared.io.web import expecting, json_response, read_json
from shared.serving.answer import Request, Text
from shared.serving.faces.context import Ports, checked_count, context_of, headers_of
from shared.serving.faces.openai_request import asked, model_of_task, named_as_sent, pinned, texts_of, unsupported
from shared.serving.faces.openai_stream import Form, choice, stream, usage_of
from shared.serving.tasks.generation_parameters import asked_of

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""What may be said of a thing that is not done here: nothing, null, or these."""


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`include_usage`: one more event before the end, with the tokens of the whole answer."""

    include_usage: bool | None = None


class Generating(msgspec.Struct, frozen=True, kw_only=True):
    """What both bodies may say. `parameters` is ours, as everywhere; a field of the body goes before one of its name in there."""

    model: str
    max_tokens: object = None
    temperature: object = None
    top_p: object = None
    stop: object = None
    seed: object = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    parameters: dict[str, object] = {}
    n: object = None
    best_of: object = None
    echo: object = None
    suffix: object = None
    logprobs: object = None
    top_logprobs: object = None
    logit_bias: object = None
    presence_penalty: object = None
    frequency_penalty: object = None
    tools: object = None
    functions: object = None
    response_format: object = None
    modalities: object = None


class CompletionsBody(Generating, frozen=True, kw_only=True):
    """`POST /v1/completions`."""

    prompt: object


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a turn; only texts are taken."""

    type: str
    text: str = ""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a conversation."""

    role: str
    content: str | list[Part] | None = None


class ChatBody(Generating, frozen=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[Message]
    max_completion_tokens: object = None


def routes(ports: Ports) -> list[web.RouteDef]:
    """Both routes."""

    async def completions(request: web.Request) -> web.StreamResponse:
        context = await context_of(request, ports)
        body = await read_json(request, CompletionsBody, limit=ports.max_body)
        texts = checked_count(texts_of(body.prompt, "prompt"), "prompt")
        with named_as_sent("prompt"):
            return await generate(request, context, body, texts, Form.COMPLETION)

    async def chat(request: web.Request) -> web.StreamResponse:
        context = await context_of(request, ports)
        body = await read_json(request, ChatBody, limit=ports.max_body)
        if body.max_completion_tokens is not None:
            if body.max_tokens not in (None, body.max_completion_tokens):
                raise unsupported("max_tokens", body.max_tokens, "max_completion_tokens alone, its newer name")
            body = msgspec.structs.replace(body, max_tokens=body.max_completion_tokens)
        with named_as_sent("messages"):
            return await generate(request, context, body, (_conversation(body.messages),), Form.CHAT)

    async def generate(
        request: web.Request, context: Request, body: Generating, texts: tuple[str, ...], form: Form
    ) -> web.StreamResponse:
        for name, neutral in _NEUTRAL.items():
            if (value := getattr(body, name)) is not None and not _is_one_of(value, neutral):
                raise unsupported(name, value, " or ".join(msgspec.json.encode(each).decode() for each in neutral))
        if body.stream_options is not None and not body.stream:
            raise unsupported("stream_options", msgspec.to_builtins(body.stream_options), "with stream true only")
        context = pinned(context, body.model)
        model = model_of_task(ports, context, body.model, TaskKind.TEXT_GENERATION)
        given = {name: getattr(body, name) for name in ("max_tokens", "temperature", "top_p", "stop", "seed")}
        parameters = body.parameters | {name: value for name, value in given.items() if value is not None}
        # Judged here already, so that whoever forwards it forwards nothing that will be refused for these.
        asked_of(parameters)
        question = asked(context, model, texts, parameters, request)
        now = int(ports.clock.wall())
        if body.stream:
            usage = bool(body.stream_options and body.stream_options.include_usage)
            return await stream(request, ports.answer.stream(question), form, created=now, usage=usage)
        response = await ports.answer.answer(question)
        results = [result for result in response.results if isinstance(result, Text)]
        document = {
            "id": response.id,
            "object": form.whole,
            "created": now,
            "model": response.model,
            "choices": [choice(form, i, result) for i, result in enumerate(results)],
            "usage": usage_of(results),
        }
        return json_response(document, headers=headers_of(response))

    expect = expecting(ports.max_body)
    return [
        web.post("/v1/completions", completions, expect_handler=expect),
        web.post("/v1/chat/completions", chat, expect_handler=expect),
    ]


def _is_one_of(value: object, neutral: Sequence[object]) -> bool:
    # `true == 1` in Python; here one is not the other.
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral)


def _conversation(messages: Sequence[Message]) -> str:
    if not messages:
        raise unsupported("messages", [], "at least one message")
    # Bundles carry no chat template: roles are spelt out, one turn per line.
    turns = [f"{message.role}: {_said(message, i)}" for i, message in enumerate(messages)]
    return "\n".join([*turns, "assistant:"])


def _said(message: Message, i: int) -> str:
    if isinstance(message.content, str):
        return message.content
    for j, part in enumerate(message.content or []):
        if part.type != "text":
            raise unsupported(f"messages[{i}].content[{j}].type", part.type, "text")
    return "".join(part.text for part in message.content or [])
