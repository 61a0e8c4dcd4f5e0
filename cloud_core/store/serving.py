"""What replicas and the gateway read over all tenants: which versions are published and named, and who serves them.

Read several times a second, so manifests, which are large, are left out until one is asked for.
"""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from cloud_core.decide.wanted import Named, Version
from cloud_core.store import rollouts, tables
from cloud_core.store.assignments import Wanted
from cloud_core.store.database import Connection
from cloud_core.store.replicas import Replica
from cloud_core.store.rows import every


async def published(connection: Connection) -> list[Version]:
    """Every version of every tenant that is not deleted."""
    versions, models = tables.versions.c, tables.models.c
    joined = tables.versions.join(
        tables.models, sa.and_(models.tenant == versions.tenant, models.name == versions.model)
    )
    statement = (
        sa.select(versions.tenant, versions.model, versions.version, versions.digest)
        .select_from(joined)
        .where(versions.deleted_at.is_(None), models.deleted_at.is_(None))
    )
    return [Version(*row) for row in (await connection.execute(statement)).all()]


async def named(connection: Connection) -> list[Named]:
    """Every model version an assignment or a rollout of any tenant names."""
    rows = await connection.execute(sa.select(tables.assignments.c.tenant, tables.assignments.c.models))
    assigned = [
        Named(tenant, wanted.name, wanted.version)
        for tenant, text in rows.all()
        for wanted in msgspec.json.decode(text, type=tuple[Wanted, ...])
    ]
    return assigned + [Named(*each) for each in await rollouts.named(connection)]


async def replicas(connection: Connection) -> list[Replica]:
    """Every replica, however old its last report, by name."""
    return await every(connection, sa.select(tables.replicas).order_by(tables.replicas.c.replica), Replica)


async def manifests(connection: Connection, versions: Sequence[Version]) -> dict[tuple[str, str], str]:
    """The manifests of `versions`, by (tenant, digest)."""
    table = tables.versions
    if not versions:
        return {}
    digests = sorted({version.digest for version in versions})
    statement = sa.select(table.c.tenant, table.c.digest, table.c.manifest).where(table.c.digest.in_(digests))
    return {(tenant, digest): text for tenant, digest, text in (await connection.execute(statement)).all()}
