"""The embedded broker as a process: what is built, what runs, and how it stops."""

from prometheus_client import CollectorRegistry, Counter, Gauge
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.broker.authenticate import Authenticator
from cloud_core.broker.embedded import EmbeddedBroker
from cloud_core.broker.listener import Listener, stop_broker
from cloud_core.config import Settings
from cloud_core.keys import Keys
from shared.io.program import Program


async def run_broker(
    settings: Settings, *, engine: AsyncEngine, keys: Keys, program: Program, registry: CollectorRegistry
) -> int:
    """Listen on `mqtt_host:mqtt_port` and hand the rest to `program`, which the caller then runs.

    Returns:
        The port, for a setting of 0.

    Raises:
        OSError: the address is not to be had.

    """
    connects = Counter("tideline_broker_connects", "Connection attempts by verdict.", ["verdict"], registry=registry)
    deliveries = Counter(
        "tideline_broker_deliveries", "Messages by what became of them.", ["outcome"], registry=registry
    )
    clients = Gauge("tideline_broker_clients", "Connections that are in.", registry=registry)
    broker = EmbeddedBroker(lambda outcome: deliveries.labels(outcome).inc())
    listener = Listener(
        broker,
        Authenticator(engine, service_password=keys.broker_password),
        log=program.log,
        count=lambda verdict: connects.labels(verdict).inc(),
    )
    clients.set_function(lambda: listener.connections)
    await broker.start()
    port = await listener.start(settings.mqtt_host, settings.mqtt_port)
    program.log.info("broker listens", host=settings.mqtt_host, port=port)
    program.task("broker-revocations", listener.watch_revocations)
    program.on_stop("broker", lambda: stop_broker(listener, broker), timeout=8.0)
    return port
