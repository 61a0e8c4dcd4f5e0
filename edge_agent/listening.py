"""Where an agent listens, on HTTP, a Unix socket, gRPC and MQTT, and in which order that ends."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack

from aiohttp import web

from edge_agent.integrators import site_of
from edge_agent.parts import Core
from edge_agent.serving import why
from edge_agent.serving.activity import seen
from edge_agent.status import Running, announce
from shared.io.web import Site, middlewares
from shared.serving.faces import health, http
from shared.serving.faces.context import GrpcPorts, Ports
from shared.serving.faces.grpc_site import GrpcSite
from shared.serving.faces.readiness import Readiness
from shared.serving.faces.turnstile import Turnstile
from shared.serving.input_log import with_inputs_logged

TENANT = "default"
"""Whose models a device serves that was never enrolled."""


async def listen(core: Core, undo: AsyncExitStack, *, announced: bool) -> None:
    """Listen on the ports, the socket and the integrators' broker; `announced` writes where into the state folder.

    Raises:
        Refused: a port or the socket cannot be had.

    """
    settings = core.settings
    site, grpc = Site(cancel_on_disconnect=True, limits=settings.http_limits), GrpcSite()

    def tenant() -> str:
        return core.standing.tenant or TENANT

    async def principal_of(*_: object) -> str:
        return tenant()

    def details() -> Mapping[str, object]:
        told = {"memory": core.engine.room.story(), "concurrency": core.engine.entrance.story()}
        return {**core.standing.details(), **grpc.details(), **site.details(), **told}

    readiness = Readiness(catalog=core.engine, folder=settings.state if announced else None)
    app = web.Application(middlewares=middlewares(core.log))
    answer = seen(with_inputs_logged(core.router, core.log, on=settings.log_inputs), core.activity)
    app.add_routes(
        http.routes(
            answer,
            core.router,
            clock=core.clock,
            principal_of=principal_of,
            readiness=readiness,
            max_body=settings.max_body_bytes,
            early=core.early,
            lag=core.early.lag,
        )
    )
    app.add_routes(health.routes(instance="edge-agent", registry=core.registry, readiness=readiness, details=details))
    why.add_routes(app, core.ring)
    site.turn_away_by(
        Turnstile(
            core.early,
            crowded=lambda: core.engine.entrance.is_crowded(tenant()),
            tenant=tenant,
            lag=core.early.lag,
            clock=core.clock,
        )
    )
    undo.push_async_callback(site.close)
    undo.push_async_callback(grpc.close)
    port = await site.start(app, host=settings.host, port=settings.port, uds=settings.uds)
    ports = GrpcPorts(
        answer,
        core.router,
        core.clock,
        readiness,
        principal_of,
        core.log,
        max_body=settings.max_body_bytes,
        message_s=settings.grpc_message_s,
        connections=settings.http_connections,
    )
    await grpc.start(ports, host=settings.host, asked=settings.grpc_port, http=settings.port)
    url = f"http://{settings.host}:{port}"
    if announced:
        announce(settings.state, Running(pid=os.getpid(), url=url, uds=settings.uds))
    core.log.info("listening", url=url, port=port, uds=settings.uds, grpc_port=grpc.port)

    lag = core.early.lag.turn
    face = Ports(answer, core.router, core.clock, principal_of, settings.max_body_bytes, core.early, lag)
    mqtt = site_of(core, face, alone=None if announced else TENANT)
    if mqtt is not None:
        core.program.task("integrators", mqtt.run)

    async def stop_accepting() -> None:
        await site.stop_accepting()
        await grpc.stop_accepting()

    async def drain() -> None:
        ways = [site.drain(settings.drain_s), grpc.drain(settings.drain_s)]
        if mqtt is not None:
            ways.append(mqtt.drain(settings.drain_s))
        if not all(await asyncio.gather(*ways)):
            core.log.warning(
                "requests were cut off", count=site.in_flight + (mqtt.under_way if mqtt is not None else 0)
            )
        if mqtt is not None:
            await mqtt.close()

    core.program.on_stop("stop accepting", stop_accepting)
    core.program.on_stop("drain", drain, timeout=settings.drain_s + 1.0)
