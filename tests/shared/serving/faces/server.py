"""A real server with every inference route over an engine with one tiny model of each task."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from aiohttp import web

from shared.bundle.manifest import TaskKind
from shared.io.clock import SystemClock
from shared.io.web import Limits, Site, middlewares
from shared.protocol.errors import Refusal, Refused
from shared.protocol.topics import Header
from shared.serving.faces import health
from shared.serving.faces.http import routes
from shared.serving.faces.readiness import Readiness
from shared.serving.versions.plain_onnx import tried_onnx
from tests.shared.serving.bundles import TENANT, adder, bundle, echo, engine, log_sink
from tests.shared.serving.in_process import try_in_process

KINDS = {
    "sentiment-tiny": TaskKind.TEXT_CLASSIFICATION,
    "a-topic": TaskKind.TEXT_CLASSIFICATION,
    "ner": TaskKind.TOKEN_CLASSIFICATION,
    "emb": TaskKind.TEXT_EMBEDDING,
}


async def tenant_in_header(request: web.Request) -> str:
    tenant = request.headers.get(Header.TENANT, TENANT)
    if tenant == "nobody":
        raise Refused("who is asking?", kind=Refusal.UNAUTHENTICATED, field="Authorization")
    return tenant


class Server:
    """Where the server listens, and a client of it."""

    def __init__(self, engine, session: aiohttp.ClientSession, url: str, lines: list) -> None:
        self.engine = engine
        self.session = session
        self.url = url
        self.lines = lines

    async def get(self, path: str, **options):
        return await self._answer("GET", path, **options)

    async def post(self, path: str, document=None, **options):
        return await self._answer("POST", path, **({"json": document} if document is not None else {}) | options)

    async def _answer(self, method: str, path: str, **options):
        """Status, headers and JSON body."""
        async with self.session.request(method, self.url + path, **options) as response:
            raw = await response.read()
            kind = response.headers.get("Content-Type", "")
            return response.status, response.headers, await response.json(content_type=None) if "json" in kind else raw


@contextlib.asynccontextmanager
async def serving(
    made,
    *,
    max_body: int = 65536,
    readiness: Mapping[str, object] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - a frozen value
    uds: Path | None = None,
):
    """Serve `made` until the block ends; the server's own session goes over the Unix socket `uds` where there is one."""
    log, lines = log_sink()
    ready = Readiness(**{"catalog": made} | dict(readiness or {}))
    app = web.Application(middlewares=middlewares(log))
    app.add_routes(
        routes(made, made, clock=SystemClock(), principal_of=tenant_in_header, readiness=ready, max_body=max_body)
    )
    app.add_routes(health.routes(instance="test", registry=made.registry, readiness=ready))
    site = Site(cancel_on_disconnect=True, limits=limits)
    port = await site.start(app, host="127.0.0.1", port=0, uds=uds)
    connector = aiohttp.UnixConnector(str(uds)) if uds is not None else None
    try:
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Server(made, session, f"http://127.0.0.1:{port}", lines)
    finally:
        await site.close()


@contextlib.asynccontextmanager
async def everything(folder, **options):
    """A server with all tiny models, active, and two plain files: `adder` and `echo`."""
    async with engine() as made:
        for name, kind in KINDS.items():
            await made.load(TENANT, bundle(folder / name, name, kind), "d" * 64, folder / name, "cpu")
        for path in (adder(folder / "adder.onnx"), echo(folder / "echo.onnx")):
            await made.load(TENANT, await tried_onnx(path, trial=try_in_process), "e" * 64, folder, "cpu")
        made.activate(TENANT, dict.fromkeys((*KINDS, "adder", "echo"), "1.0.0"))
        async with serving(made, **options) as server:
            yield server
