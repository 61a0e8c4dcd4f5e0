"""What a replica tells the gateway of its load: `GET /internal/load`, read every second."""

import msgspec
from aiohttp import web

from shared.io.web import json_response
from shared.protocol.reported import ModelState
from shared.serving.engine import Engine

PATH = "/internal/load"


class ModelLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One ready model version: seconds a request would wait before compute."""

    tenant: str
    model: str
    version: str
    expected_wait_s: float


def load_route(engine: Engine) -> web.RouteDef:
    """The route that tells it."""

    async def tell(_: web.Request) -> web.Response:
        return json_response(loads_of(engine))

    return web.get(PATH, tell)


def loads_of(engine: Engine) -> list[ModelLoad]:
    """The load of every ready version."""
    found: list[ModelLoad] = []
    for listed in engine.models():
        load = engine.load_of(listed.tenant, listed.name, listed.version)
        if load is not None and load.state is ModelState.READY:
            found.append(
                ModelLoad(
                    tenant=listed.tenant,
                    model=listed.name,
                    version=listed.version,
                    expected_wait_s=load.expected_wait,
                )
            )
    return found
