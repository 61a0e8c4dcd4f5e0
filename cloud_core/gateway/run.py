"""The gateway as a process: what is built, what runs, and how it stops."""

import random

import aiohttp
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.api.access_tokens import AccessTokens
from cloud_core.api.auth import Authenticator
from cloud_core.broker.service import service_server
from cloud_core.config import Settings
from cloud_core.gateway.access import Access
from cloud_core.gateway.balancer import Balancer
from cloud_core.gateway.catalog import GatewayCatalog
from cloud_core.gateway.explanations import Explanations
from cloud_core.gateway.fleet import Fleet
from cloud_core.gateway.forward import ReplicaForward
from cloud_core.gateway.metrics import GatewayMetrics
from cloud_core.gateway.pressure import PressurePublisher
from cloud_core.gateway.server import Parts, build_gateway
from cloud_core.gateway.watch import Watch
from cloud_core.keys import Keys
from cloud_core.site_stop import stop_site
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.mqtt import MqttLink
from shared.io.program import Program
from shared.io.web import Site
from shared.serving.faces.grpc_site import GrpcSite
from shared.serving.input_log import with_inputs_logged

TOKENS_REMEMBERED_S = 5.0
"""How long a verdict about a token stands: a revoked one works this much longer at the most."""


async def run_gateway(
    settings: Settings,
    *,
    engine: AsyncEngine,
    keys: Keys,
    program: Program,
    log: Log,
    registry: CollectorRegistry,
    clock: Clock,
    drain: float,
) -> int:
    """Listen on `gateway_port` and hand the rest to `program`, which the caller then runs.

    Returns:
        The port, for a setting of 0. A shutdown waits `drain` seconds for requests in flight.

    """
    draw = random.SystemRandom().random
    fleet, explanations = Fleet(), Explanations()
    catalog, metrics = GatewayCatalog(fleet), GatewayMetrics(registry, fleet)
    watch = Watch(engine, fleet, catalog, log=log, clock=clock)
    tokens = AccessTokens(keys.access)
    access = Access(Authenticator(engine, tokens, clock, remember_s=TOKENS_REMEMBERED_S), tokens, clock)
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30))
    balancer = Balancer(
        fleet,
        catalog,
        ReplicaForward(session, clock),
        look_again=watch.look,
        explanations=explanations,
        metrics=metrics,
        clock=clock,
        draw=draw,
    )

    async def publish(topic: str, payload: bytes) -> None:
        await link.publish(topic, payload, qos=0, retain=True)

    pressure = PressurePublisher(fleet, catalog, session, publish=publish, metrics=metrics, log=log, clock=clock)

    async def connected() -> None:
        pressure.forget()

    async def no_will() -> None:
        return None

    link = MqttLink(
        service_server(settings, keys, "gateway"),
        will=no_will,
        on_connected=connected,
        handlers={},
        count=metrics.message,
        log=log,
        clock=clock,
        draw=draw,
    )
    parts = Parts(
        answer=with_inputs_logged(balancer, log, on=settings.log_inputs),
        catalog=catalog,
        fleet=fleet,
        watch=watch,
        access=access,
        explanations=explanations,
        registry=registry,
        log=log,
        clock=clock,
        max_body=settings.max_body_bytes,
    )
    site, grpc = Site(cancel_on_disconnect=True, limits=settings.http_limits), GrpcSite()
    await watch.look()
    faces = build_gateway(parts, lambda: {**grpc.details(), **site.details()})
    port = await site.start(faces.application, host=settings.host, port=settings.gateway_port)
    await grpc.start(faces.grpc, host=settings.host, asked=settings.gateway_grpc_port, http=settings.gateway_port)
    program.task("watch", watch.run)
    program.task("mqtt", link.run)
    program.task("pressure", pressure.run)
    stop_site(program, site, grpc, drain=drain)
    program.on_stop("mqtt", link.close)
    program.on_stop("replica connections", session.close)
    return port
