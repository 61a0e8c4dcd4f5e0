"""OpenAI's shapes: embeddings and models here, completions beside. An unmodified `openai` client works."""

import base64

import msgspec
import numpy as np
from aiohttp import web

from shared.bundle.manifest import TaskKind
from shared.io.web import expecting, json_response, read_json
from shared.protocol.errors import Corrupt
from shared.protocol.reported import ModelState
from shared.serving.answer import Embedding
from shared.serving.catalog import pick
from shared.serving.faces import openai_completions
from shared.serving.faces.context import Ports, checked_count, context_of, headers_of
from shared.serving.faces.openai_request import asked, model_of_task, pinned, texts_of, unsupported


class EmbeddingsBody(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/embeddings`; fields this server has no use for are ignored, as OpenAI's own servers do.

    `parameters` is ours: `{"truncate": true}`, as everywhere.
    """

    model: str
    input: object
    encoding_format: str = "float"
    dimensions: int | None = None
    parameters: dict[str, object] = {}


def routes(ports: Ports) -> list[web.RouteDef]:
    """All routes."""
    created = int(ports.clock.wall())

    async def embeddings(request: web.Request) -> web.Response:
        context = await context_of(request, ports)
        body = await read_json(request, EmbeddingsBody, limit=ports.max_body)
        if body.encoding_format not in ("float", "base64"):
            raise unsupported("encoding_format", body.encoding_format, "float, base64")
        texts = checked_count(texts_of(body.input, "input"), "input")
        context = pinned(context, body.model)
        model = model_of_task(ports, context, body.model, TaskKind.TEXT_EMBEDDING)
        widths = {spec.shape[-1] for spec in model.outputs if spec.shape}
        if len(widths) == 1 and -1 not in widths:
            # Before anything is computed, where the program says how long its vectors are.
            _check_dimensions(body.dimensions, *widths)
        response = await ports.answer.answer(asked(context, model, texts, body.parameters, request))
        vectors = [result for result in response.results if isinstance(result, Embedding)]
        if len(vectors) != len(texts):
            raise Corrupt("the model gave no embeddings")
        _check_dimensions(body.dimensions, vectors[0].embedding.shape[0])
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
        web.post("/v1/embeddings", embeddings, expect_handler=expecting(ports.max_body)),
        *openai_completions.routes(ports),
        web.get("/v1/models", models),
        web.get("/v1/models/{model}", one),
    ]


def _check_dimensions(wanted: int | None, size: int) -> None:
    if wanted is not None and wanted != size:
        raise unsupported("dimensions", wanted, f"{size}, the model's own")


def _vector(vector: Embedding, form: str) -> object:
    if form == "base64":
        return base64.b64encode(np.ascontiguousarray(vector.embedding, dtype="<f4").tobytes()).decode()
    return vector.embedding.tolist()
