"""`/predict` and `/batch_predict`: plain JSON for people."""

from collections.abc import Sequence

import msgspec
from aiohttp import web

from shared.bundle.manifest import TaskKind
from shared.io.web import expecting, json_response, read_json
from shared.protocol.errors import Refusal, Refused
from shared.serving.answer import Embedding, Entities, Label, Relations, Request, Response, Result, Text
from shared.serving.catalog import Listed, pick
from shared.serving.faces.context import Ports, checked_count, context_of, headers_of

SENTIMENT, CLASSIFICATION = "sentiment", "classification"
TASK_TYPES = {
    SENTIMENT: TaskKind.TEXT_CLASSIFICATION,
    CLASSIFICATION: TaskKind.TEXT_CLASSIFICATION,
    "ner": TaskKind.TOKEN_CLASSIFICATION,
    "relation": TaskKind.RELATION_EXTRACTION,
    "embedding": TaskKind.TEXT_EMBEDDING,
    "generation": TaskKind.TEXT_GENERATION,
}
"""What people call a task."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What both bodies say of the model."""

    task_type: str | None = None
    model: str | None = None
    version: str | None = None
    parameters: dict[str, object] = {}


class Single(Asked, frozen=True, kw_only=True):
    """The body of `/predict`."""

    input_text: str | list[str] | None = None
    text: str | list[str] | None = None


class Batch(Asked, frozen=True, kw_only=True):
    """The body of `/batch_predict`."""

    input_texts: str | list[str] | None = None
    texts: str | list[str] | None = None


def routes(ports: Ports) -> list[web.RouteDef]:
    """Both routes."""

    async def predict(request: web.Request) -> web.Response:
        context = await context_of(request, ports)
        body = await read_json(request, Single, limit=ports.max_body)
        texts = _texts(body.input_text, body.text, "input_text")
        if len(texts) != 1:
            raise Refused(
                "not one text", field="input_text", value=len(texts), allowed="one; /batch_predict takes more"
            )
        response = await ports.answer.answer(_request(context, body, texts, ports, request.content_length))
        document = _document(response, body)
        document["result"] = result = plain_of(response.results[0])
        if result.get("truncated"):
            document["truncated"] = True
        return json_response(document, headers=headers_of(response))

    async def batch_predict(request: web.Request) -> web.Response:
        context = await context_of(request, ports)
        body = await read_json(request, Batch, limit=ports.max_body)
        texts = checked_count(_texts(body.input_texts, body.texts, "input_texts"), "input_texts")
        asked = _request(context, body, texts, ports, request.content_length)
        response = await ports.answer.answer(asked)
        document = _document(response, body)
        document["results"] = [plain_of(result) for result in response.results]
        return json_response(document, headers=headers_of(response))

    expect = expecting(ports.max_body)
    return [
        web.post("/predict", predict, expect_handler=expect),
        web.post("/batch_predict", batch_predict, expect_handler=expect),
    ]


def _texts(long: str | list[str] | None, short: str | list[str] | None, field: str) -> tuple[str, ...]:
    """The texts under either name; one by itself is a list of one."""
    given = long if long is not None else short
    if given is None:
        raise Refused("missing field", field=field, allowed=f"{field}, or {field.removeprefix('input_')}")
    return (given,) if isinstance(given, str) else tuple(given)


def chosen(models: Sequence[Listed], body: Asked) -> Listed:
    """The model the body means.

    Raises:
        Refused: neither or an unknown model or task type, or no model of that task.

    """
    if body.model is not None:
        return pick(models, body.model, body.version)
    if body.task_type is None:
        raise Refused("missing field", field="task_type", allowed=f"model, or one of {', '.join(TASK_TYPES)}")
    if body.task_type not in TASK_TYPES:
        raise Refused(
            "unknown task type",
            kind=Refusal.UNPROCESSABLE,
            field="task_type",
            value=body.task_type,
            allowed=", ".join(TASK_TYPES),
        )
    kind = TASK_TYPES[body.task_type]
    able = sorted({model.name for model in models if model.task is kind})
    if body.task_type in (SENTIMENT, CLASSIFICATION):
        # Both are classes of a text; a model's name says whether they are moods.
        able = [name for name in able if (SENTIMENT in name) == (body.task_type == SENTIMENT)] or able
    if not able:
        there = ", ".join(sorted({f"{model.name} ({model.task.value})" for model in models})) or "no model is loaded"
        raise Refused(
            "no model for this task", kind=Refusal.NOT_FOUND, field="task_type", value=body.task_type, allowed=there
        )
    return pick(models, able[0], body.version)


def plain_of(result: Result) -> dict[str, object]:
    """A result as people read it."""
    plain: dict[str, object]
    match result:
        case Label():
            plain = {"label": result.label, "score": result.score, "scores": result.scores}
        case Entities():
            plain = {"entities": result.entities}
        case Relations():
            plain = {"relations": result.relations}
        case Embedding():
            plain = {"embedding": result.embedding.tolist()}
        case Text():
            plain = {"text": result.text, "finish_reason": result.finish}
        case _:
            return {"outputs": {name: array.tolist() for name, array in result.outputs.items()}}
    if result.truncated:
        plain["truncated"] = True
    return plain


def _request(context: Request, body: Asked, texts: tuple[str, ...], ports: Ports, size: int | None) -> Request:
    model = chosen(ports.catalog.models(context.tenant), body)
    if not model.is_text:
        raise Refused(
            "the model takes tensors",
            kind=Refusal.UNPROCESSABLE,
            field="model",
            value=model.name,
            allowed=f"POST /v2/models/{model.name}/infer",
        )
    return msgspec.structs.replace(
        context,
        model=model.name,
        version=body.version,
        texts=texts,
        parameters=body.parameters,
        body_bytes=size or sum(len(text) for text in texts),
    )


def _document(response: Response, body: Asked) -> dict[str, object]:
    return {
        "request_id": response.id,
        "task": body.task_type or response.task,
        "model": response.model,
        "version": response.version,
        "where": response.where,
    }
