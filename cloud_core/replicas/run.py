"""A local replica as a process: what is built, what runs, and how it stops."""

import random
from pathlib import Path

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.announced import url_of
from cloud_core.config import Settings
from cloud_core.replicas.local import LocalReplica, Place, Preference
from cloud_core.replicas.runtimes import budget_here, offers_here, open_session
from cloud_core.replicas.server import build_replica, grpc_ports
from cloud_core.site_stop import stop_site
from cloud_core.store.chunk_stores import open_chunks
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.memory import Heap, memory_limit
from shared.io.program import Program
from shared.io.web import Site
from shared.serving.answer import Where
from shared.serving.arrangement import Arrangement
from shared.serving.decide.footprint import allowance
from shared.serving.engine import Engine
from shared.serving.faces.grpc_site import GrpcSite
from shared.serving.memory.recycler import Recycler
from shared.serving.memory.room import Room
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
    metrics, heap = EngineMetrics(registry), Heap()
    allowed = allowance(
        memory_limit(),
        heap.resident(),
        budget=settings.replica_memory_bytes,
        slack=settings.replica_memory_growth_bytes,
        processes=settings.replicas,
    )
    room = Room(clock=clock, log=log, metrics=metrics.residency, budget=allowed.budget, heap=heap)
    engine = Engine(
        clock=clock,
        log=log,
        metrics=metrics,
        where=Where.CLOUD,
        sessions=open_session,
        budget=budget_here(),
        room=room,
    )
    site, grpc = Site(cancel_on_disconnect=True, limits=settings.http_limits), GrpcSite()
    application = build_replica(
        name,
        engine,
        folder=folder,
        registry=registry,
        log=log,
        clock=clock,
        log_inputs=settings.log_inputs,
        details=lambda: {**grpc.details(), **site.details(), "memory": room.story()},
        max_body=settings.max_body_bytes,
    )
    http_port, grpc_port = ports
    port = await site.start(application, host=settings.replica_host, port=http_port)
    face = grpc_ports(
        engine,
        folder=folder,
        log=log,
        clock=clock,
        log_inputs=settings.log_inputs,
        max_body=settings.max_body_bytes,
    )
    await grpc.start(face, host=settings.replica_host, asked=grpc_port, http=http_port)
    replica = LocalReplica(
        engine,
        database,
        place=Place(
            name,
            settings.replica_url or url_of(settings.replica_host, port),
            folder / "bundles",
            open_chunks(settings.chunk_store, settings.artifacts),
        ),
        preference=Preference(
            settings.replica_variant,
            Arrangement(
                lanes=settings.replica_lanes,
                threads=settings.replica_threads,
                runtime=settings.replica_runtime,
                precision=settings.replica_precision,
            ),
            offers_here(),
        ),
        log=log,
        clock=clock,
        draw=random.SystemRandom().random,
    )
    program.task("converge", replica.converge)
    program.task("report", replica.report)
    program.task("recycle", Recycler(room, slack=allowed.slack, clock=clock, log=log).tend_forever)
    program.on_stop("leave", replica.leave, timeout=3.0)
    stop_site(program, site, grpc, drain=drain)
    program.on_stop("engine", engine.close)
    return port
