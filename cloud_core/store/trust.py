"""TUF metadata of tenants: the newest of each role, every root, and what a tenant's targets should be."""

import msgspec
import sqlalchemy as sa

from cloud_core.store import tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import columns, every, first
from cloud_core.store.trust_tables import trust
from shared.protocol.trust import ROOT

KEPT = 16
"""Versions of a role besides root that stay, for devices that are in the middle of an update."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One file; `expires_at` as its content says."""

    role: str
    version: int
    content: str
    expires_at: float


class Manifested(msgspec.Struct, frozen=True, kw_only=True):
    """A version that is not deleted: its manifest's digest, and the manifest's length in bytes."""

    model: str
    version: str
    digest: str
    length: int


async def take_turn(connection: Connection, tenant: str) -> None:
    """Nobody else signs for this tenant until this transaction ends."""
    # Not FOR UPDATE: rows that refer to the tenant may have been written in this very transaction, by two at the same time.
    own = sa.select(tables.tenants.c.tenant).where(tables.tenants.c.tenant == tenant)
    await connection.execute(own.with_for_update(key_share=True))


async def newest(connection: Connection, tenant: str) -> dict[str, Stored]:
    """The newest file of each role there is."""
    latest = (
        sa.select(trust.c.role, sa.func.max(trust.c.version).label("version"))
        .where(trust.c.tenant == tenant)
        .group_by(trust.c.role)
        .subquery()
    )
    statement = (
        sa.select(*columns(trust, Stored))
        .join(latest, sa.and_(latest.c.role == trust.c.role, latest.c.version == trust.c.version))
        .where(trust.c.tenant == tenant)
    )
    return {row.role: row for row in await every(connection, statement, Stored)}


async def get(connection: Connection, tenant: str, role: str, version: int | None) -> Stored | None:
    """One file; the newest where no version is given."""
    own = sa.select(*columns(trust, Stored)).where(trust.c.tenant == tenant, trust.c.role == role)
    if version is not None:
        own = own.where(trust.c.version == version)
    return await first(connection, own.order_by(trust.c.version.desc()).limit(1), Stored)


async def roots(connection: Connection, tenant: str) -> list[Stored]:
    """Every root, oldest first."""
    own = sa.select(*columns(trust, Stored)).where(trust.c.tenant == tenant, trust.c.role == ROOT)
    return await every(connection, own.order_by(trust.c.version), Stored)


async def add(
    connection: Connection, tenant: str, *, role: str, version: int, content: str, expires_at: float, now: float
) -> None:
    """Keep a file; of all roles but root, those long replaced go."""
    row = {"tenant": tenant, "role": role, "version": version, "content": content, "expires_at": expires_at}
    await connection.execute(sa.insert(trust).values(**row, created_at=now))
    if role != ROOT:
        old = sa.and_(trust.c.tenant == tenant, trust.c.role == role, trust.c.version <= version - KEPT)
        await connection.execute(sa.delete(trust).where(old))


async def manifests(connection: Connection, tenant: str) -> list[Manifested]:
    """What a tenant's targets should be."""
    versions = tables.versions
    length = (
        sa.func.octet_length(versions.c.manifest)
        if connection.dialect.name == "postgresql"
        else sa.func.length(sa.cast(versions.c.manifest, sa.BLOB))
    )
    statement = sa.select(versions.c.model, versions.c.version, versions.c.digest, length.label("length"))
    present = statement.where(versions.c.tenant == tenant, versions.c.deleted_at.is_(None))
    return await every(connection, present, Manifested)
