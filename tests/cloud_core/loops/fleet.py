"""The loops beside a broker, and devices that speak to them as agents do."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.loops.run import run_loops
from cloud_core.store import assignments, devices, groups, models, policies, versions
from cloud_core.store.assignments import Wanted
from cloud_core.store.database import read, write
from cloud_core.store.devices import Device
from shared.io.clock import SystemClock
from shared.io.mqtt import Will
from shared.io.signing import verify
from shared.protocol import reported, telemetry
from shared.protocol.desired import KIND, Generation, Limits, Order, SignedGeneration, generation_in
from shared.protocol.envelope import B, body_of, seal, unseal
from shared.protocol.policy import Policy
from shared.protocol.reported import Birth, Convergence, Death, Hardware, Reported
from shared.protocol.telemetry import Ack, Batch, Sample
from shared.protocol.topics import topic
from tests.cloud_core.api.server import OpenGate
from tests.cloud_core.broker.brokers import KEYS, LOG, Client, RunningProgram, Site, program

HARDWARE = Hardware(hardware_class="test", machine="x86_64", cpus=2, memory_bytes=2**30)
HOST = telemetry.Host(cpu=0.1, memory=0.2, disk_free_bytes=1, agent_memory_bytes=1)
START = float(int(time.time()) - 1000)
_ids = itertools.count()


@contextlib.asynccontextmanager
async def loops(site: Site, **settings: Any) -> AsyncIterator[tuple[RunningProgram, CollectorRegistry]]:
    """All loops until the block ends."""
    registry = CollectorRegistry()
    async with program() as running:
        link = await run_loops(
            msgspec.structs.replace(site.settings, **settings),
            engine=site.engine,
            keys=KEYS,
            gate=OpenGate(),
            program=running,
            log=LOG,
            registry=registry,
            clock=SystemClock(),
        )
        running.start()
        async with asyncio.timeout(15):
            await link.wait_connected()
        yield running, registry


async def publish_model(engine: AsyncEngine, name: str, version: str, *, tenant: str = "a") -> str:
    digest = f"{abs(hash((name, version))):064x}"[-64:]
    async with write(engine) as connection:
        await models.create(connection, tenant, name, description="", now=time.time())
        assert await versions.publish(
            connection,
            tenant,
            model=name,
            version=version,
            digest=digest,
            manifest="{}",
            published_by="test",
            now=time.time(),
        )
    return digest


async def put_group(engine: AsyncEngine, group: str, *names: str, tenant: str = "a") -> None:
    async with write(engine) as connection:
        await groups.create(connection, tenant, group, description="", now=time.time())
        for device in names:
            await groups.add(connection, tenant, group, device, now=time.time())


async def assign(
    engine: AsyncEngine,
    group: str,
    *wanted: tuple[str, str],
    policy: str | None = None,
    priority: int = 0,
    tenant: str = "a",
) -> None:
    async with write(engine) as connection:
        await assignments.put(
            connection,
            tenant,
            group,
            models=[Wanted(name=name, version=version) for name, version in wanted],
            policy=policy,
            limits=Limits(),
            priority=priority,
            now=time.time(),
        )


async def put_policy(engine: AsyncEngine, name: str, policy: Policy, *, tenant: str = "a") -> None:
    async with write(engine) as connection:
        await policies.put(connection, tenant, name, policy=policy, now=time.time())


async def device(engine: AsyncEngine, name: str) -> Device:
    tenant, own = name.split("/")
    async with read(engine) as connection:
        found = await devices.get(connection, tenant, own)
    assert found is not None
    return found


class Agent:
    """A device's half of the protocol."""

    def __init__(self, site: Site, name: str, *, epoch: int = 1, digest: str = "d0", server_name: str = "") -> None:
        self.name = name
        self.clock_ahead = 0.0
        self.epoch = epoch
        self.seq = 0
        self.digest = digest
        will = Will(self.topic("death"), self.sealed(reported.DEATH, Death(epoch=epoch)))
        subscribe = tuple(self.topic(row) for row in ("desired", "command", "telemetry-ack", "state"))
        self.client = Client(site.server(name), subscribe=subscribe, will=will, on_connected=self._announce)

    async def _announce(self, _: Client) -> None:
        await self.birth(self.epoch)

    async def birth(self, epoch: int) -> None:
        await self.say(
            "birth",
            reported.BIRTH,
            Birth(epoch=epoch, at=1.0, agent_version="1.0", hardware=HARDWARE, state_digest=self.digest),
        )

    async def report(
        self, *, epoch: int | None = None, seq: int | None = None, applied: Order | None = None, step: str = ""
    ) -> None:
        self.seq += 1
        body = Reported(
            epoch=self.epoch if epoch is None else epoch,
            seq=self.seq if seq is None else seq,
            at=1.0,
            applied=applied,
            target=applied,
            convergence=Convergence.APPLIED if applied else Convergence.NONE,
            models=(),
            step=step,
            state_digest=self.digest,
        )
        await self.say("reported", reported.KIND, body)

    async def telemetry(self, *seqs: int, epoch: int = 1) -> None:
        start = START + self.clock_ahead
        samples = tuple(Sample(seq=seq, started_at=start + seq, ended_at=start + seq + 1, host=HOST) for seq in seqs)
        await self.say("telemetry", telemetry.KIND, Batch(epoch=epoch, samples=samples))

    async def say(self, row: str, kind: str, body: object) -> None:
        await self.client.link.publish(self.topic(row), self.sealed(kind, body))

    def sealed(self, kind: str, body: object) -> bytes:
        return seal(kind, body, id=f"m{next(_ids)}", now=time.time() + self.clock_ahead)

    def topic(self, row: str) -> str:
        tenant, own = self.name.split("/")
        return topic(row, tenant=tenant, device=own)

    def heard(self, row: str, kind: str, into: type[B]) -> list[B]:
        return [
            body_of(unseal(one.payload), kind, into)
            for one in self.client.received
            if one.where.row.name == row and one.payload
        ]

    def generations(self) -> list[Generation]:
        """Every generation received, its signature checked."""
        found = []
        for signed in self.heard("desired", KIND, SignedGeneration):
            verify(
                signed.payload.encode(),
                signature=signed.signature,
                key_id=signed.key_id,
                keys=[KEYS.generation.pinned],
            )
            found.append(generation_in(signed))
        return found

    def acks(self) -> list[Ack]:
        return self.heard("telemetry-ack", telemetry.ACK, Ack)


def cut(client: Client) -> None:
    """Close the socket under the client without DISCONNECT, as a power cut would."""
    connection = client.link._connection
    assert connection is not None
    connection.cut()
