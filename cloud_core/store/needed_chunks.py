"""Which chunks a tenant's versions still need: all of every version that is not deleted, and of those deleted ones that are still named.

A deleted version is named by a generation that is kept, by what a device reports, by a rollout that is not over, and by an
assignment, though none of these should outlive it. Names of digests are looked for in the documents' text: whatever field of
whatever age of format names one, its chunks stay.
"""

import asyncio
import re
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.decide.rollout_spec import HOLDING, OPEN
from cloud_core.decide.spare_chunks import GRACE_S, Survey, survey
from cloud_core.store import assignments, tables
from cloud_core.store.chunks import Chunks
from cloud_core.store.database import Connection, read
from cloud_core.store.rollout_tables import rollouts
from shared.bundle.chunks import chunks_of
from shared.bundle.manifest import parse_manifest

_DIGESTS = re.compile(r"[0-9a-f]{64}")
_V, _G, _D = tables.versions.c, tables.generations.c, tables.devices.c

Known = dict[str, frozenset[str]]
"""The chunks of manifests that were read, by the manifests' digests, which stand for their content for ever."""


async def needed(connection: Connection, tenant: str, known: Known) -> frozenset[str]:
    """The digests of all chunks that must stay; what is read of manifests is added to `known`."""
    rows = await connection.execute(
        sa.select(_V.model, _V.version, _V.digest, _V.deleted_at).where(_V.tenant == tenant)
    )
    every = rows.all()
    wanted = {row.digest for row in every if row.deleted_at is None}
    deleted = [row for row in every if row.deleted_at is not None]
    if deleted:
        by_name = await _names(connection, tenant)
        by_digest = await _mentioned(connection, tenant)
        wanted |= {row.digest for row in deleted if row.digest in by_digest or (row.model, row.version) in by_name}
    for digest in wanted - known.keys():
        text = (
            await connection.execute(sa.select(_V.manifest).where(_V.tenant == tenant, _V.digest == digest))
        ).scalar_one()
        known[digest] = frozenset(chunk.digest for chunk in chunks_of(parse_manifest(text.encode()).files))
    return frozenset().union(*(known[digest] for digest in wanted))


async def looked_over(
    engine: AsyncEngine, store: Chunks, tenant: str, *, now: float, grace: float = GRACE_S, known: Known
) -> Survey:
    """What a tenant's store holds and what of it may go; nothing is removed.

    Raises:
        Transient: the database or the store is away.

    """
    # Listed first: what is put while the registry is read is not on the list.
    held = await asyncio.to_thread(lambda: list(store.list()))
    async with read(engine) as connection:
        still = await needed(connection, tenant, known)
    return survey(held, still, now=now, grace=grace)


async def _names(connection: Connection, tenant: str) -> set[tuple[str, str]]:
    """(model, version) of what groups are assigned and of what rollouts that are not over bring or keep."""
    found = {
        (one.name, one.version)
        for assignment in await assignments.everywhere(connection, tenant)
        for one in assignment.wanted
    }
    live = sa.and_(rollouts.c.tenant == tenant, rollouts.c.state.in_([state.value for state in OPEN | HOLDING]))
    rows = await connection.execute(sa.select(rollouts.c.model, rollouts.c.version).where(live))
    return found | {(model, version) for model, version in rows.all()}


async def _mentioned(connection: Connection, tenant: str) -> set[str]:
    """Digests in the generations that are kept of devices that are there, and in what these devices report."""
    own = sa.and_(_D.tenant == tenant, _D.deleted_at.is_(None))
    of_devices = tables.generations.join(tables.devices, sa.and_(_D.tenant == _G.tenant, _D.device == _G.device))
    # Devices of one group have the same content: one of them speaks for all.
    payloads = sa.select(sa.func.max(_G.payload)).select_from(of_devices).where(own).group_by(_G.content_digest)
    reports = sa.select(_D.reported).where(own, _D.reported.is_not(None))
    found: set[str] = set()
    for statement in (payloads, reports):
        found |= _digests_in((await connection.execute(statement)).scalars())
    return found


def _digests_in(texts: Iterable[str]) -> set[str]:
    return {digest for text in texts for digest in _DIGESTS.findall(text)}
