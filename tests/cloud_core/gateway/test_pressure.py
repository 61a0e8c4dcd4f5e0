"""The gateway tells the fleet its headroom over a real broker: retained, and again when the broker forgot."""

import asyncio
from pathlib import Path

from prometheus_client import CollectorRegistry

from cloud_core.broker.run import run_broker
from cloud_core.broker.service import service_server
from cloud_core.store.database import open_database
from shared.bundle.manifest import TaskKind
from shared.io.mqtt import MqttLink, Received
from shared.io.program import Program
from shared.protocol.envelope import body_of, unseal
from shared.protocol.pressure import KIND, Pressure
from shared.protocol.topics import topic
from tests.cloud_core.gateway.cloud import CLOCK, Registry, cloud
from tests.cloud_core.waiting import eventually
from tests.shared.serving.bundles import bundle, log_sink


class Listener:
    """A subscriber of one tenant's pressure."""

    def __init__(self, registry: Registry, role: str) -> None:
        self.heard: list[tuple[Pressure, bool]] = []
        log, _ = log_sink()

        async def heard(message: Received) -> None:
            self.heard.append((body_of(unseal(message.payload), KIND, Pressure), message.retained))

        async def subscribe() -> None:
            await self.link.subscribe(topic("pressure", tenant="default"), qos=0)

        async def no_will() -> None:
            return None

        self.link = MqttLink(
            service_server(registry.settings, registry.keys, role),
            will=no_will,
            on_connected=subscribe,
            handlers={"pressure": heard},
            count=lambda _name, _outcome: None,
            log=log,
            clock=CLOCK,
            draw=lambda: 0.1,
        )


async def start_broker(registry: Registry) -> asyncio.Task[None]:
    log, _ = log_sink()
    program = Program(log)
    await run_broker(
        registry.settings,
        engine=open_database(registry.settings.database_url),
        keys=registry.keys,
        program=program,
        registry=CollectorRegistry(),
    )
    running = asyncio.create_task(program.run())
    running.program = program  # type: ignore[attr-defined]
    return running


async def stop(broker: asyncio.Task[None]) -> None:
    broker.program.stopping.set()  # type: ignore[attr-defined]
    await broker


def test_pressure_is_retained_follows_the_replicas_and_survives_a_broker(sqlite_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with cloud(sqlite_url, tmp_path, "replica-0") as (registry, _, replicas):
            broker = await start_broker(registry)
            manifest = bundle(tmp_path / "m", "sentiment", TaskKind.TEXT_CLASSIFICATION)
            await registry.publish(manifest, tmp_path / "m")
            listener = Listener(registry, "api")
            listening = asyncio.create_task(listener.link.run())

            async def admits(fraction: float) -> bool:
                if not listener.heard:
                    return False
                told = listener.heard[-1][0]
                assert told.valid_until > CLOCK.wall()
                model = told.models.get("sentiment")
                return model is not None and model.admit_fraction == fraction

            await eventually(lambda: admits(1.0))
            await replicas[0].crash()
            await eventually(lambda: admits(0.0))

            # A broker that starts anew has nothing retained: the gateway says everything again.
            await stop(broker)
            listener.heard.clear()
            broker = await start_broker(registry)
            await eventually(lambda: admits(0.0), within=30)
            late = Listener(registry, "loops")
            await listener.link.close()
            await listening
            listening = asyncio.create_task(late.link.run())

            async def retained() -> bool:
                return any(was_retained for _, was_retained in late.heard)

            await eventually(retained)
            await late.link.close()
            await listening
            await stop(broker)

    asyncio.run(main())
