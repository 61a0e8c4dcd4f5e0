"""A local replica as a process: what is built, what runs, and how it stops."""

import random
from pathlib import Path

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.announced import url_of
from cloud_core.config import Settings
from cloud_core.replicas.local import LocalReplica, Place, Preference
from cloud_core.replicas.server import build_replica
from cloud_core.site_stop import stop_site
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.program import Program
from shared.io.web import Site
from shared.serving.answer import Where
from shared.serving.engine import Engine
from shared.serving.metrics import EngineMetrics


async def run_replica(
    settings: Settings,
    *,
    name: str,
    port: int,
    folder: Path,
    database: AsyncEngine,
    program: Program,
    log: Log,
    registry: CollectorRegistry,
    clock: Clock,
    drain: float,
) -> int:
    """Listen on `port` and hand the rest to `program`, which the caller then runs; `folder` is this replica's alone.

    Returns:
        The port, for a `port` of 0. A shutdown waits `drain` seconds for requests in flight.

    """
    engine = Engine(clock=clock, log=log, metrics=EngineMetrics(registry), where=Where.CLOUD)
    site = Site(cancel_on_disconnect=True)
    application = build_replica(
        name, engine, folder=folder, registry=registry, log=log, clock=clock, log_inputs=settings.log_inputs
    )
    port = await site.start(application, host=settings.replica_host, port=port)
    replica = LocalReplica(
        engine,
        database,
        place=Place(
            name, settings.replica_url or url_of(settings.replica_host, port), folder / "bundles", settings.artifacts
        ),
        preference=Preference(settings.replica_variant, settings.replica_threads),
        log=log,
        clock=clock,
        draw=random.SystemRandom().random,
    )
    program.task("converge", replica.converge)
    program.task("report", replica.report)
    program.on_stop("leave", replica.leave, timeout=3.0)
    stop_site(program, site, drain=drain)
    program.on_stop("engine", engine.close)
    return port
