"""The leading loops as a process: what is built, what runs, and how it stops."""

import random

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.broker.service import service_server
from cloud_core.config import Settings
from cloud_core.keys import Keys
from cloud_core.loops.converged import Convergence
from cloud_core.loops.ingest import Ingest
from cloud_core.loops.metrics import LoopMetrics
from cloud_core.loops.publish import Publish
from cloud_core.loops.reconcile import Reconcile
from cloud_core.loops.roster import Roster
from cloud_core.loops.state import CloudLink
from cloud_core.loops.sweep import Sweep
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.mqtt import Outcome
from shared.io.program import Program


async def run_loops(
    settings: Settings,
    *,
    engine: AsyncEngine,
    keys: Keys,
    program: Program,
    log: Log,
    registry: CollectorRegistry,
    clock: Clock,
) -> CloudLink:
    """Hand all loops to `program`, which the caller then runs.

    Returns:
        The link, for readiness: whether the broker is there.

    """
    metrics = LoopMetrics(registry)
    convergence = Convergence(metrics, clock)
    publish = Publish(engine, metrics=metrics, clock=clock, log=log)
    ingest = Ingest(engine, keys.generation, applied=convergence.reported, metrics=metrics, clock=clock, log=log)
    reconcile = Reconcile(
        engine,
        keys.generation,
        valid=settings.desired_valid_s,
        made=convergence.made,
        metrics=metrics,
        clock=clock,
        log=log,
    )
    sweep = Sweep(engine, lost_after=settings.lost_after_s, metrics=metrics, clock=clock, log=log)
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
    )
    program.task("mqtt", link.run)
    program.task("reconcile", reconcile.run)
    program.task("publish", lambda: publish.run(link.publish, link.wait_connected))
    program.task("ingest", lambda: ingest.run(link.publish))
    program.task("sweep", sweep.run)
    program.task("roster", roster.run)
    program.on_stop("mqtt", link.close)
    return link
