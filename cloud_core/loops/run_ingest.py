"""A process that only takes telemetry, beside the leading loops and others of its kind: what is built, and what runs.

The broker deals the batches out (`$share`, MQTT 5 section 4.8.2; Mosquitto and EMQX do so for 3.1.1 too). Nothing relies on how: whoever
gets a batch writes it in a turn of its own and acknowledges what the database then holds, and a device sends to the others what one
that died did not acknowledge.
"""

import asyncio
import random

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.broker.service import service_server
from cloud_core.config import Settings
from cloud_core.keys import Keys
from cloud_core.loops.fleet_metrics import FleetMetrics
from cloud_core.loops.ingest import SHARED, Ingest
from cloud_core.loops.metrics import LoopMetrics
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.mqtt import MqttLink, Outcome
from shared.io.program import Program
from shared.protocol.topics import everyone


async def run_ingest(
    settings: Settings,
    *,
    engine: AsyncEngine,
    keys: Keys,
    program: Program,
    log: Log,
    registry: CollectorRegistry,
    clock: Clock,
) -> MqttLink:
    """Hand the ingest to `program`, which the caller then runs.

    Returns:
        The link, for readiness.

    """
    metrics = LoopMetrics(registry)
    ingest = Ingest(
        engine,
        keys.generation,
        turn=asyncio.Lock(),
        applied=lambda *_: None,
        metrics=metrics,
        fleet=FleetMetrics(registry),
        clock=clock,
        log=log,
    )

    def count(kind: str, outcome: Outcome) -> None:
        if outcome is not Outcome.HANDLED:  # what was handled is counted once it is written
            metrics.count(kind, outcome.value)

    async def connected() -> None:
        await link.subscribe(*(everyone(row, share=share) for row, share in SHARED.items()))

    async def no_will() -> None:
        return None

    link = MqttLink(
        service_server(settings, keys, f"ingest-{settings.ingest_number}"),
        will=no_will,
        on_connected=connected,
        handlers={row: handler for row, handler in ingest.handlers.items() if row in SHARED},
        count=count,
        log=log,
        clock=clock,
        draw=random.SystemRandom().random,
        queue_limit=10_000,
    )
    program.task("mqtt", link.run)
    program.task("ingest", lambda: ingest.run(link.publish_all))
    program.on_stop("mqtt", link.close)
    return link
