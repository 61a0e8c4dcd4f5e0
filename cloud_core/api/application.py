"""The API process's aiohttp application: the admin and device API, the dashboard, health and metrics."""

from importlib import metadata, resources

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.api import (
    assignments,
    audit,
    chunk_survey,
    chunks,
    device,
    devices,
    events,
    groups,
    imports,
    login,
    models,
    openapi,
    policies,
    replicas,
    rollouts,
    telemetry,
    telemetry_live,
    tenants,
    tokens,
    trust,
    users,
    versions,
)
from cloud_core.api.content_desk import ContentDesk
from cloud_core.api.dispatch import Dispatcher
from cloud_core.api.feed import Feed
from cloud_core.api.health import Health
from cloud_core.api.routes import Api, Route
from cloud_core.config import Settings
from cloud_core.keys import Keys
from cloud_core.models.trial import Gate
from shared.io import web as http
from shared.io.clock import Clock
from shared.io.logs import Log

CONTENT = web.AppKey("content", ContentDesk)
"""What a server runs beside, on a connection to the broker, for devices that have only MQTT."""
FEED = web.AppKey("feed", Feed)
"""A server that shuts down calls `app[FEED].close()`, or waits for its event streams until it gives up."""
PAGES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: nothing from elsewhere, nothing inline."""


def table() -> tuple[Route, ...]:
    """Every route of the admin and device API."""
    resources_of = (
        login, models, versions, chunk_survey, chunks, imports, devices, groups, policies, assignments, rollouts,
        replicas, users, tokens, tenants, audit, events, telemetry, telemetry_live, trust, device,
    )  # fmt: skip
    described = tuple(route for resource in resources_of for route in resource.routes())
    return (*described, *openapi.routes(described, version=_version()))


def build_api(  # noqa: PLR0917 - what a composition hands over, in one order everywhere
    settings: Settings,
    engine: AsyncEngine,
    keys: Keys,
    log: Log,
    registry: CollectorRegistry,
    clock: Clock,
    gate: Gate,
) -> web.Application:
    """The application. The caller runs `app[FEED].run()`, a background task of its program, and disposes of the engine."""
    api = Api(settings=settings, engine=engine, keys=keys, log=log, registry=registry, clock=clock, gate=gate)
    health = Health(api, version=_version())
    app = web.Application(middlewares=[*http.middlewares(log), _hardened], client_max_size=http.MAX_BODY)
    app[FEED] = api.feed
    app[CONTENT] = ContentDesk(
        engine,
        api.artifacts,
        api.trust.file,
        bytes_per_s=settings.mqtt_device_bytes_per_s,
        part_bytes=settings.mqtt_part_bytes,
        clock=clock,
        log=log,
        registry=registry,
    )

    async def ended(_app: web.Application) -> None:
        api.feed.close()

    app.on_shutdown.append(ended)
    dispatcher = Dispatcher(api)
    for route in table():
        app.router.add_route(route.method, route.path, dispatcher.handler(route))
    for path, handler in (
        ("/live", health.live),
        ("/ready", health.ready),
        ("/health", health.health),
        ("/healthz", health.live),
        ("/metrics", health.metrics),
        ("/metrics/json", health.metrics_json),
    ):
        app.router.add_get(path, handler)
    _add_dashboard(app)
    return app


@web.middleware
async def _hardened(request: web.Request, handler: http.Handler) -> web.StreamResponse:
    response = await handler(request)
    if not response.prepared:
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "no-referrer")
        response.headers.setdefault("Content-Security-Policy", POLICY)
    return response


def _add_dashboard(app: web.Application) -> None:
    for entry in resources.files("cloud_core.dashboard").iterdir():
        kind = PAGES.get("." + entry.name.rpartition(".")[2])
        if kind is not None:
            app.router.add_get("/" if entry.name == "index.html" else f"/{entry.name}", _page(entry.read_bytes(), kind))


def _page(body: bytes, kind: str) -> http.Handler:
    async def page(_request: web.Request) -> web.StreamResponse:
        headers = {hdrs.CACHE_CONTROL: "no-cache"}
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    return page


def _version() -> str:
    return metadata.version("tideline")
