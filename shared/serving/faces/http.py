"""The HTTP face: all inference routes, and Open Inference Protocol v2 itself. Parse, ask the one port, respond."""

from collections.abc import Sequence
from functools import partial

import msgspec
from aiohttp import web

from shared.io.clock import Clock
from shared.io.loop_lag import LoopLag
from shared.io.web import MAX_BODY, check_media_type, expecting, json_response, off_the_loop, read_body, read_json
from shared.protocol.errors import Refused
from shared.protocol.reported import ModelState
from shared.serving.answer import Answer
from shared.serving.catalog import Catalog, Listed, pick
from shared.serving.faces import openai, plain
from shared.serving.faces.context import Early, Ports, PrincipalOf, checked_count, context_of, headers_of
from shared.serving.faces.readiness import Readiness
from shared.serving.oip.http import BINARY, JSON, decode_request, encode_response
from shared.serving.oip.models import (
    configuration,
    every_statistics,
    metadata,
    read_only,
    repository_index,
    server_metadata,
)
from shared.serving.oip.tensors import HEADER_LENGTH


def routes(
    answer: Answer,
    catalog: Catalog,
    *,
    clock: Clock,
    principal_of: PrincipalOf,
    readiness: Readiness,
    max_body: int = MAX_BODY,
    early: Early | None = None,
    lag: LoopLag | None = None,
) -> list[web.RouteDef]:
    """Every inference route, to be mounted on an application with `shared.io.web.middlewares`.

    Args:
        answer: an engine, an edge's router, or the gateway's balancer.
        catalog: what it can answer with.
        clock: the process's.
        principal_of: the tenant of a request; may refuse it.
        readiness: what `/v2/health/ready` says.
        max_body: bytes of a request's body.
        early: what may turn requests away before their bodies are read; None reads them all.
        lag: how late the event loop is; None for a watch of its own.

    """
    ports = Ports(answer, catalog, clock, principal_of, max_body, early, (lag or LoopLag(clock)).turn)
    face = OipFace(ports, readiness)
    model = "/v2/models/{model}"
    routes = [
        # First, because paths are tried in this order.
        web.post(f"{model}/infer", face.infer, expect_handler=expecting(max_body)),
        web.post(f"{model}/versions/{{version}}/infer", face.infer, expect_handler=expecting(max_body)),
        web.get("/v2", face.server),
        web.get("/v2/health/live", face.live),
        web.get("/v2/health/ready", face.ready),
        web.post("/v2/repository/index", face.index),
        web.post("/v2/repository/models/{model}/load", face.control),
        web.post("/v2/repository/models/{model}/unload", face.control),
        web.get("/v2/models/stats", face.stats),
    ]
    for path in (model, f"{model}/versions/{{version}}"):
        routes += [
            web.get(path, face.model),
            web.get(f"{path}/ready", face.model_ready),
            web.get(f"{path}/config", face.configuration),
            web.get(f"{path}/stats", face.stats),
        ]
    return [*routes, *plain.routes(ports), *openai.routes(ports)]


class _IndexRequest(msgspec.Struct):
    ready: bool = False


class OipFace:
    """The `/v2` routes."""

    def __init__(self, ports: Ports, readiness: Readiness) -> None:
        self._ports = ports
        self._readiness = readiness

    async def infer(self, request: web.Request) -> web.Response:
        """One inference, JSON or binary."""
        version = request.match_info.get("version")
        name = request.match_info["model"]
        context = await context_of(request, self._ports, model=name, version=version)
        model = pick(self._ports.catalog.models(context.tenant), name, version)
        if request.content_type != BINARY:
            # aiohttp says octet-stream where a client says nothing, as tritonclient does.
            check_media_type(request.content_type, JSON, BINARY)
        body = await read_body(request, self._ports.max_body)
        now = self._ports.clock.monotonic()
        decode = partial(decode_request, body, _header_length(request), model, context, now=now)
        asked, wishes = await off_the_loop(request, len(body), decode)
        if asked.texts is not None:
            checked_count(asked.texts, "inputs[0].shape")
        response = await self._ports.answer.answer(asked)
        encoded = encode_response(response, wishes)
        return web.Response(body=encoded.data, headers=headers_of(response) | encoded.headers)

    async def server(self, _: web.Request) -> web.Response:
        """Who this is."""
        return json_response(server_metadata())

    async def live(self, _: web.Request) -> web.Response:
        """It answers, so it lives."""
        return json_response({"live": True})

    async def ready(self, _: web.Request) -> web.Response:
        """Ready or not, and why not."""
        verdict = self._readiness.verdict()
        return json_response(verdict, status=200 if verdict.ready else 503)

    async def model(self, request: web.Request) -> web.Response:
        """Metadata of one model."""
        models, model = await self._picked(request)
        return json_response(metadata(model, [each.version for each in models if each.name == model.name]))

    async def model_ready(self, request: web.Request) -> web.Response:
        """Whether a version (or the active one) answers."""
        _, model = await self._picked(request)
        ready = model.state is ModelState.READY
        document = {"name": model.name, "version": model.version, "ready": ready, "reason": model.reason}
        return json_response(document, status=200 if ready else 503)

    async def configuration(self, request: web.Request) -> web.Response:
        """Configuration of one model, as Triton has it."""
        _, model = await self._picked(request)
        return json_response(configuration(model))

    async def stats(self, request: web.Request) -> web.Response:
        """Counters of one version, of all versions of a model, or of every model."""
        tenant = await self._ports.principal_of(request)
        named = (request.match_info.get("model"), request.match_info.get("version"))
        return json_response(every_statistics(self._ports.catalog, tenant, *named))

    async def index(self, request: web.Request) -> web.Response:
        """The repository's index."""
        tenant = await self._ports.principal_of(request)
        asked = await read_json(request, _IndexRequest, limit=65536, optional=True)
        return json_response(repository_index(self._ports.catalog.models(tenant), ready=asked.ready))

    async def control(self, request: web.Request) -> web.Response:
        """Loading and unloading, which clients may not."""
        await self._ports.principal_of(request)
        raise read_only(request.match_info["model"])

    async def _picked(self, request: web.Request) -> tuple[Sequence[Listed], Listed]:
        tenant = await self._ports.principal_of(request)
        models = self._ports.catalog.models(tenant)
        return models, pick(models, request.match_info["model"], request.match_info.get("version"))


def _header_length(request: web.Request) -> int | None:
    text = request.headers.get(HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise Refused("not a length", field=HEADER_LENGTH, value=text, allowed="the JSON part's length in bytes")
    return int(text)
