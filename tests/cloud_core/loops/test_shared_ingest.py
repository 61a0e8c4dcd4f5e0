"""Several processes take telemetry from Mosquitto in turns: each batch is stored once, whoever gets it and whoever is gone."""

import asyncio
import contextlib
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from cloud_core.loops.run_ingest import run_ingest
from cloud_core.store import telemetry
from cloud_core.store.database import read
from shared.io.clock import SystemClock
from shared.protocol.telemetry import Ack
from tests.cloud_core.broker.brokers import KEYS, LOG, Site, connected, database, program, running
from tests.cloud_core.loops.fleet import Agent, loops
from tests.cloud_core.waiting import eventually

BATCHES = 40


def taken(registry: CollectorRegistry) -> float:
    labels = {"kind": "batch", "outcome": "stored"}
    return registry.get_sample_value("tideline_mqtt_messages_total", labels) or 0.0


async def acked(agent: Agent, seq: int) -> bool:
    return Ack(epoch=1, seq=seq) in agent.acks()


async def send(agent: Agent, seqs: range) -> None:
    """One batch after the other, again where nobody acknowledged, as devices do."""
    for seq in seqs:
        while True:
            await agent.telemetry(seq)
            with contextlib.suppress(TimeoutError):
                await eventually(lambda seq=seq: acked(agent, seq), within=3.0)  # type: ignore[misc]
                break


@contextlib.asynccontextmanager
async def further(site: Site, registry: CollectorRegistry):  # type: ignore[no-untyped-def]
    """A process of the role `ingest`, until the block ends."""
    async with program() as own:
        link = await run_ingest(
            msgspec.structs.replace(site.settings, ingest_number=2), engine=site.engine, keys=KEYS, program=own,
            log=LOG, registry=registry, clock=SystemClock(),
        )  # fmt: skip
        own.start()
        async with asyncio.timeout(15):
            await link.wait_connected()
        yield


def test_processes_share_telemetry_and_one_that_goes_leaves_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            database(tmp_path, "a/d1", "a/d2") as engine,
            running("mosquitto", tmp_path, engine) as site,
            loops(site, ingest_shared=True) as (_, leading),
        ):
            agents = [Agent(site, "a/d1"), Agent(site, "a/d2")]
            async with connected(agents[0].client), connected(agents[1].client):
                other = CollectorRegistry()
                async with further(site, other):
                    await asyncio.gather(*(send(agent, range(1, BATCHES + 1)) for agent in agents))
                    assert taken(leading) > 0
                    assert taken(other) > 0
                assert taken(leading) + taken(other) == 2 * BATCHES
                await asyncio.gather(*(send(agent, range(BATCHES + 1, BATCHES + 6)) for agent in agents))
            async with read(engine) as connection:
                kept = await telemetry.after(connection, 0, limit=1000)
            assert sorted((one.device, one.sample.seq) for one in kept) == [
                (device, seq) for device in ("d1", "d2") for seq in range(1, BATCHES + 6)
            ]

    asyncio.run(main())
