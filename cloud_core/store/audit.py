"""Who did what, in order. Rows are only ever added."""

from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from cloud_core.store import tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import every, text_of

_T = tables.audit


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One act; `detail` is a JSON document."""

    id: int
    at: float
    principal: str
    verb: str
    resource: str
    name: str
    detail: str


async def append(
    connection: Connection,
    tenant: str,
    *,
    principal: str,
    verb: str,
    resource: str,
    name: str,
    now: float,
    detail: Mapping[str, object] | None = None,
) -> None:
    """Record an act, in the transaction that does it."""
    values = {"principal": principal, "verb": verb, "resource": resource, "name": name, "detail": text_of(detail or {})}
    await connection.execute(sa.insert(_T).values(tenant=tenant, at=now, **values))


async def page(connection: Connection, tenant: str, *, before: int | None = None, limit: int = 100) -> list[Entry]:
    """Acts, newest first, from the one before id `before`."""
    statement = sa.select(*(_T.c[name] for name in Entry.__struct_fields__)).where(_T.c.tenant == tenant)
    if before is not None:
        statement = statement.where(_T.c.id < before)
    return await every(connection, statement.order_by(_T.c.id.desc()).limit(limit), Entry)
