"""A local replica as a process: what is built, what runs, and how it stops."""

import random
from pathlib import Path

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.announced import url_of
from cloud_core.config import Settings
from cloud_core.replicas.local import LocalReplica, Place, Preference
from cloud_core.replicas.runtimes import offers_here, open_session
from cloud_core.replicas.server import build_replica, grpc_ports
from cloud_core.site_stop import stop_site
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.program import Program
from shared.io.web import Site
from shared.serving.answer import Where
from shared.serving.engine import Engine
from shared.serving.faces.grpc_site import GrpcSite
from shared.serving.metrics import EngineMetrics


async def run_replica(
    settings: Settings,
    *,
    name: str,
    ports: tuple[int, int | None],
    folder: Path,
    database: AsyncEngine,
    program: Program,
    log: Log,
    registry: CollectorRegistry,
    clock: Clock,
    drain: float,
) -> int:
    """Listen on `ports`, HTTP's and gRPC's as the settings say them, and hand the rest to `program`, which the caller then runs.

    `folder` is this replica's alone.

    Returns:
        The HTTP port, which is another where 0 was asked for. A shutdown waits `drain` seconds for requests in flight.

    """
    engine = Engine(clock=clock, log=log, metrics=EngineMetrics(registry), where=Where.CLOUD, sessions=open_session)
    site, grpc = Site(cancel_on_disconnect=True), GrpcSite()
    application = build_replica(
        name,
        engine,
        folder=folder,
        registry=registry,
        log=log,
        clock=clock,
        log_inputs=settings.log_inputs,
        details=grpc.details,
    )
    http_port, grpc_port = ports
    port = await site.start(application, host=settings.replica_host, port=http_port)
    face = grpc_ports(engine, folder=folder, log=log, clock=clock, log_inputs=settings.log_inputs)
    await grpc.start(face, host=settings.replica_host, asked=grpc_port, http=http_port)
    replica = LocalReplica(
        engine,
        database,
        place=Place(
            name, settings.replica_url or url_of(settings.replica_host, port), folder / "bundles", settings.artifacts
        ),
        preference=Preference(settings.replica_variant, settings.replica_threads, offers_here()),
        log=log,
        clock=clock,
        draw=random.SystemRandom().random,
    )
    program.task("converge", replica.converge)
    program.task("report", replica.report)
    program.on_stop("leave", replica.leave, timeout=3.0)
    stop_site(program, site, grpc, drain=drain)
    program.on_stop("engine", engine.close)
    return port
