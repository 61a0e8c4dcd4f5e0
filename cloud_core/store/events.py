"""What changed, in order: the dashboard's stream, and the loops' signal that something is to be done.

Invariant: ids become visible in their order, so a reader that remembers the last id it saw misses nothing. SQLite has one
writer at a time; on PostgreSQL an advisory lock, held to the commit, makes the writers of events take turns.
"""

from collections.abc import Collection, Mapping

import msgspec
import sqlalchemy as sa

from cloud_core.store import tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import every, text_of

EVERYONE = "*"
"""Tenant of events about the platform itself; no tenant can have this name."""
_LOCK = 0x7469_6465
_T = tables.events


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One change. `kind` is what happened (created, updated, …), `resource` the collection, `data` a JSON document."""

    id: int
    tenant: str
    at: float
    kind: str
    resource: str
    name: str
    data: str


async def append(
    connection: Connection,
    tenant: str,
    *,
    kind: str,
    resource: str,
    name: str,
    now: float,
    data: Mapping[str, object] | None = None,
) -> None:
    """Record a change, in the transaction that makes it."""
    await _take_turn(connection)
    await connection.execute(
        sa.insert(_T).values(tenant=tenant, at=now, kind=kind, resource=resource, name=name, data=text_of(data or {}))
    )


async def after(connection: Connection, last: int, *, limit: int = 500) -> list[Event]:
    """Events of all tenants with an id above `last`, oldest first: for pollers that serve or wake many tenants."""
    return await every(connection, sa.select(_T).where(_T.c.id > last).order_by(_T.c.id).limit(limit), Event)


async def after_in(connection: Connection, tenant: str, last: int, *, limit: int = 500) -> list[Event]:
    """Events one tenant may see with an id above `last`, oldest first."""
    mine = _T.c.tenant.in_((tenant, EVERYONE))
    return await every(connection, sa.select(_T).where(mine, _T.c.id > last).order_by(_T.c.id).limit(limit), Event)


async def newest_id(connection: Connection) -> int:
    """The id of the newest event; 0 when there is none."""
    return int((await connection.execute(sa.select(sa.func.coalesce(sa.func.max(_T.c.id), 0)))).scalar_one())


async def any_after(connection: Connection, last: int, *, resource: str) -> tuple[int, bool]:
    """The newest id, and whether an event above `last` is about this collection."""
    newest = await newest_id(connection)
    own = sa.select(_T.c.id).where(_T.c.id > last, _T.c.id <= newest, _T.c.resource == resource).limit(1)
    return newest, (await connection.execute(own)).first() is not None


async def tenants_after(connection: Connection, last: int, *, without: Collection[str]) -> tuple[int, frozenset[str]]:
    """The newest id, and the tenants that events above `last` are about; those of the kinds `without` do not count."""
    newest = await newest_id(connection)
    relevant = sa.and_(_T.c.id > last, _T.c.id <= newest, _T.c.kind.not_in(list(without)))
    found = (await connection.execute(sa.select(_T.c.tenant).where(relevant).distinct())).scalars()
    return newest, frozenset(found)


async def trim(connection: Connection, *, before: float) -> None:
    """Forget events older than `before`."""
    await connection.execute(sa.delete(_T).where(_T.c.at < before))


async def _take_turn(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
