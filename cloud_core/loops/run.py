"""The leading loops as a process: what is built, what runs, and how it stops."""

import asyncio
import random
import sys

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.broker.service import service_server
from cloud_core.config import Settings, import_environment
from cloud_core.keys import Keys
from cloud_core.loops.collect import Collect, CollectMetrics
from cloud_core.loops.converged import Convergence
from cloud_core.loops.fleet_metrics import FleetMetrics
from cloud_core.loops.import_attempt import Importer
from cloud_core.loops.import_child import Limits
from cloud_core.loops.imports import Imports, Place
from cloud_core.loops.ingest import SHARED, Ingest
from cloud_core.loops.metrics import LoopMetrics
from cloud_core.loops.publish import Publish
from cloud_core.loops.reconcile import Reconcile
from cloud_core.loops.rollouts import Rollouts
from cloud_core.loops.rollup import Rollup
from cloud_core.loops.roster import Roster
from cloud_core.loops.state import CloudLink
from cloud_core.loops.sweep import Sweep
from cloud_core.loops.trust import TrustLoop
from cloud_core.models.trial import Gate
from cloud_core.store.chunk_stores import ChunksOf, open_chunks
from cloud_core.trust.repository import Repository
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.mqtt import Outcome
from shared.io.program import Program


async def run_loops(
    settings: Settings,
    *,
    engine: AsyncEngine,
    keys: Keys,
    gate: Gate,
    program: Program,
    log: Log,
    registry: CollectorRegistry,
    clock: Clock,
) -> CloudLink:
    """Hand all loops to `program`, which the caller then runs. `gate` decides which imported versions may exist.

    Returns:
        The link, for readiness: whether the broker is there.

    """
    metrics = LoopMetrics(registry)
    chunks = open_chunks(settings.chunk_store, settings.artifacts)
    convergence = Convergence(metrics, clock)
    publish = Publish(engine, metrics=metrics, clock=clock, log=log)
    fleet, turn = FleetMetrics(registry), asyncio.Lock()
    ingest = Ingest(
        engine,
        keys.generation,
        turn=turn,
        applied=convergence.reported,
        metrics=metrics,
        fleet=fleet,
        clock=clock,
        log=log,
    )
    rollup = Rollup(engine, turn=turn, metrics=fleet, clock=clock, log=log)
    reconcile = Reconcile(
        engine,
        keys.generation,
        valid=settings.desired_valid_s,
        made=convergence.made,
        metrics=metrics,
        clock=clock,
        log=log,
    )
    rollouts = Rollouts(engine, lost_after=settings.lost_after_s, metrics=metrics, clock=clock, log=log)
    sweep = Sweep(engine, lost_after=settings.lost_after_s, metrics=metrics, clock=clock, log=log)
    repository = Repository(settings.trust_keys, keys.generation)
    trust = TrustLoop(engine, repository, registry=registry, clock=clock, log=log)
    collect = Collect(engine, chunks, metrics=CollectMetrics(registry), clock=clock, log=log)
    importing = Imports(engine, _place(settings, chunks), _importer(settings), gate, clock=clock, log=log)
    roster = Roster(engine, settings, keys, gone=publish.clear, clock=clock, log=log)

    def count(kind: str, outcome: Outcome) -> None:
        if outcome is not Outcome.HANDLED:  # what was handled is counted once it is written
            metrics.count(kind, outcome.value)

    link = CloudLink(
        service_server(settings, keys, "loops"),
        engine=engine,
        handlers=ingest.handlers,
        connected=publish.connected,
        count=count,
        clock=clock,
        log=log,
        draw=random.SystemRandom().random,
        shared=SHARED if settings.ingest_shared else None,
    )
    program.task("mqtt", link.run)
    program.task("reconcile", reconcile.run)
    program.task("rollouts", rollouts.run)
    program.task("publish", lambda: publish.run(link.publish, link.wait_connected))
    program.task("ingest", lambda: ingest.run(link.publish_all))
    program.task("rollup", rollup.run)
    program.task("sweep", sweep.run)
    program.task("collect", collect.run)
    program.task("roster", roster.run)
    program.task("imports", importing.run)
    program.task("trust", trust.run)
    program.on_stop("imports", importing.close)
    program.on_stop("mqtt", link.close)
    return link


def _place(settings: Settings, chunks: ChunksOf) -> Place:
    return Place(settings.imports, sources=settings.import_chunks, artifacts=chunks)


def _importer(settings: Settings) -> Importer:
    python = settings.import_python or sys.executable
    return Importer(
        python,
        program=(python, "-P", "-m", "cloud_core.importer"),
        environment=import_environment(),
        limits=Limits(settings.import_memory_bytes, settings.import_seconds, settings.import_disk_bytes),
        hidden=settings.hidden_from_imports,
    )
