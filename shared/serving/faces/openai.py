"""OpenAI's shapes: embeddings, completions, chat completions, models. An unmodified `openai` client works."""

import base64
from collections.abc import Mapping

import msgspec
import numpy as np
from aiohttp import web

from shared.bundle.manifest import TaskKind
from shared.io.web import json_response, read_json
from shared.protocol.errors import Corrupt, Refusal, Refused
from shared.protocol.reported import ModelState
from shared.serving.answer import Embedding, Request, Text
from shared.serving.catalog import Listed, pick
from shared.serving.faces.context import Ports, checked_count, context_of, headers_of
from shared.serving.faces.openai_stream import Form, choice, stream

_SAMPLING = ("max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "seed")


class EmbeddingsBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/embeddings`; fields this server has no use for are ignored, as OpenAI's own servers do.

    `parameters` is ours: `{"truncate": true}`, as everywhere.
    """

    model: str
    input: object
    encoding_format: str = "float"
    dimensions: int | None = None
    parameters: dict[str, object] = {}


class CompletionsBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/completions`."""

    model: str
    prompt: object
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a conversation."""

    role: str
    content: str


class ChatBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    model: str
    messages: list[Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None


def routes(ports: Ports) -> list[web.RouteDef]:
    """All routes."""
    created = int(ports.clock.wall())

    async def embeddings(request: web.Request) -> web.Response:
        context = await context_of(request, ports)
        body = await read_json(request, EmbeddingsBody, limit=ports.max_body)
        if body.encoding_format not in ("float", "base64"):
            raise _unknown("encoding_format", body.encoding_format, "float, base64")
        texts = checked_count(_texts(body.input, "input"), "input")
        context = _pinned(context, body.model)
        model = _of_task(ports, context, body.model, TaskKind.TEXT_EMBEDDING)
        response = await ports.answer.answer(_asked(context, model, texts, body.parameters, request))
        vectors = [result for result in response.results if isinstance(result, Embedding)]
        if len(vectors) != len(texts):
            raise Corrupt("the model gave no embeddings")
        size = vectors[0].embedding.shape[0]
        if body.dimensions is not None and body.dimensions != size:
            raise _unknown("dimensions", body.dimensions, f"{size}, the model's own")
        tokens = sum(vector.tokens for vector in vectors)
        document = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": i, "embedding": _vector(vector, body.encoding_format)}
                | ({"truncated": True} if vector.truncated else {})
                for i, vector in enumerate(vectors)
            ],
            "model": response.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return json_response(document, headers=headers_of(response))

    async def completions(request: web.Request) -> web.StreamResponse:
        context = await context_of(request, ports)
        body = await read_json(request, CompletionsBody, limit=ports.max_body)
        texts = checked_count(_texts(body.prompt, "prompt"), "prompt")
        return await generate(request, context, body, texts, Form.COMPLETION)

    async def chat(request: web.Request) -> web.StreamResponse:
        context = await context_of(request, ports)
        body = await read_json(request, ChatBody, limit=ports.max_body)
        if not body.messages:
            raise _unknown("messages", [], "at least one message")
        # Bundles carry no chat template: roles are spelt out, one turn per line.
        turns = [f"{message.role}: {message.content}" for message in body.messages]
        return await generate(request, context, body, ("\n".join([*turns, "assistant:"]),), Form.CHAT)

    async def generate(
        request: web.Request, context: Request, body: CompletionsBody | ChatBody, texts: tuple[str, ...], form: Form
    ) -> web.StreamResponse:
        if body.n not in (None, 1):
            raise _unknown("n", body.n, "1")
        context = _pinned(context, body.model)
        model = _of_task(ports, context, body.model, TaskKind.TEXT_GENERATION)
        given = {name: getattr(body, name, None) for name in _SAMPLING}
        asked = _asked(
            context, model, texts, {name: value for name, value in given.items() if value is not None}, request
        )
        now = int(ports.clock.wall())
        if body.stream:
            return await stream(request, ports.answer.stream(asked), form, created=now)
        response = await ports.answer.answer(asked)
        results = [result for result in response.results if isinstance(result, Text)]
        prompt, done = sum(result.prompt_tokens for result in results), sum(result.tokens for result in results)
        document = {
            "id": response.id,
            "object": form.whole,
            "created": now,
            "model": response.model,
            "choices": [choice(form, i, result, piece=False) for i, result in enumerate(results)],
            "usage": {"prompt_tokens": prompt, "completion_tokens": done, "total_tokens": prompt + done},
        }
        return json_response(document, headers=headers_of(response))

    async def models(request: web.Request) -> web.Response:
        tenant = await ports.principal_of(request)
        names = sorted({model.name for model in ports.catalog.models(tenant) if model.state is ModelState.READY})
        return json_response({"object": "list", "data": [entry(name) for name in names]})

    async def one(request: web.Request) -> web.Response:
        tenant = await ports.principal_of(request)
        return json_response(entry(pick(ports.catalog.models(tenant), request.match_info["model"]).name))

    def entry(name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": created, "owned_by": "tideline"}

    return [
        web.post("/v1/embeddings", embeddings),
        web.post("/v1/completions", completions),
        web.post("/v1/chat/completions", chat),
        web.get("/v1/models", models),
        web.get("/v1/models/{model}", one),
    ]


def _texts(value: object, field: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise Refused("wrong type", field=field, value=type(value).__name__, allowed="a text or a list of texts")
    for i, text in enumerate(value):
        if not isinstance(text, str):
            raise Refused(
                "wrong type", field=f"{field}[{i}]", value=type(text).__name__, allowed="a text; no token ids"
            )
    return tuple(value)


def _pinned(context: Request, model: str) -> Request:
    """`name@version` asks for that version, as `X-Tideline-Model` writes it; a gateway pins it so."""
    version = model.partition("@")[2]
    return msgspec.structs.replace(context, version=version) if version else context


def _of_task(ports: Ports, context: Request, name: str, task: TaskKind) -> Listed:
    model = pick(ports.catalog.models(context.tenant), name.partition("@")[0], context.version)
    if model.task is not task:
        raise Refused(
            f"the model is of task {model.task.value}",
            kind=Refusal.UNPROCESSABLE,
            field="model",
            value=name,
            allowed=f"a model of task {task.value}",
        )
    return model


def _asked(
    context: Request, model: Listed, texts: tuple[str, ...], parameters: Mapping[str, object], request: web.Request
) -> Request:
    size = request.content_length or sum(len(text) for text in texts)
    return msgspec.structs.replace(context, model=model.name, texts=texts, parameters=parameters, body_bytes=size)


def _vector(vector: Embedding, form: str) -> object:
    if form == "base64":
        return base64.b64encode(np.ascontiguousarray(vector.embedding, dtype="<f4").tobytes()).decode()
    return vector.embedding.tolist()


def _unknown(field: str, value: object, allowed: str) -> Refused:
    return Refused("unsupported value", field=field, value=value, allowed=allowed)
