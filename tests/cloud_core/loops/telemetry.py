"""A registry with devices in groups, and samples as they say them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.decide.ranges import cover
from cloud_core.decide.rollup import Cell, added
from cloud_core.store import devices, groups, history, telemetry, tenants
from cloud_core.store.database import open_database, read, write
from cloud_core.store.history import Selector
from cloud_core.store.telemetry import Row, Source
from shared.protocol.telemetry import Host, RequestCount, Sample, histogram_of

HOST = Host(cpu=0.1, memory=0.2, disk_free_bytes=1, agent_memory_bytes=1)
HOUR = 1_800_000_000 // 3600 * 3600
"""When the tests' samples begin: a whole hour."""


@asynccontextmanager
async def registry(url: str, members: dict[str, Sequence[str]], *, tenant: str = "a") -> AsyncIterator[AsyncEngine]:
    """A database with these devices, by group."""
    engine = open_database(url)
    async with write(engine) as connection:
        if not await tenants.exists(connection, tenant):
            await tenants.create(connection, tenant, now=1.0)
        await enrolled(connection, members, tenant=tenant)
    try:
        yield engine
    finally:
        await engine.dispose()


async def enrolled(connection: telemetry.Connection, members: dict[str, Sequence[str]], *, tenant: str) -> None:
    """Devices of a tenant, by group."""
    for name in sorted({device for each in members.values() for device in each}):
        await devices.create(
            connection,
            tenant,
            name,
            description="",
            enrol_token_hash=f"{tenant}/{name}",
            enrol_expires_at=1.0,
            now=1.0,
        )
    for group, each in members.items():
        await groups.create(connection, tenant, group, description="", now=1.0)
        for name in each:
            await groups.add(connection, tenant, group, name, now=1.0)


def sample(
    seq: int,
    *latencies: float,
    at: float = HOUR,
    model: str = "m",
    version: str = "1.0.0",
    place: str = "local",
    outcome: str = "ok",
) -> Sample:
    """Ten seconds from `at`, in which requests took so long."""
    latency = histogram_of(latencies)
    one = RequestCount(
        model=model, version=version, where=place, outcome=outcome, reason="mode", count=latency.count, latency=latency
    )
    requests = (one,) if latencies else ()
    return Sample(seq=seq, started_at=at, ended_at=at + 10.0, host=HOST, requests=requests)


async def say(engine: AsyncEngine, device: str, *samples: Sample, tenant: str = "a", epoch: int = 1) -> None:
    """Store samples as ingest does."""
    async with write(engine) as connection:
        await telemetry.take_turn(connection)
        found = await telemetry.groups_of(connection, [(tenant, device)])
        source = Source(tenant, device, epoch)
        rows = [Row(source, found.get((tenant, device), ()), one) for one in samples]
        await telemetry.store(connection, rows)


async def told(
    engine: AsyncEngine, start: float, end: float, *, seconds: Sequence[int] = (10, 60, 3600), **selected: object
) -> Cell:
    """All that history says of a range, in one cell."""
    selector = Selector(**{"tenant": "a", **selected})  # type: ignore[arg-type]
    async with read(engine) as connection:
        found = await history.read(connection, selector, cover(start, end, kept_from=dict.fromkeys(seconds, 0.0)))
    return added(one.cell for one in found)
