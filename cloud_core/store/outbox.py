"""Messages that a committed change owes to devices, in order; publishing marks them sent.

A row is written in the transaction that makes the change and sent at least once: receivers order by what is inside.
"""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from cloud_core.store import tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import columns, every

_T = tables.outbox


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """One message not yet sent; `payload` is the JSON body of its envelope, `kind` the envelope's kind."""

    id: int
    tenant: str
    device: str
    kind: str
    payload: str
    created_at: float


async def add(connection: Connection, tenant: str, device: str, *, kind: str, payload: str, now: float) -> None:
    """Owe `device` a message."""
    await connection.execute(
        sa.insert(_T).values(tenant=tenant, device=device, kind=kind, payload=payload, created_at=now)
    )


async def unsent(connection: Connection, *, limit: int = 500) -> list[Pending]:
    """What is still to be sent, oldest first, over all tenants."""
    statement = sa.select(*columns(_T, Pending)).where(_T.c.sent_at.is_(None)).order_by(_T.c.id).limit(limit)
    return await every(connection, statement, Pending)


async def depth(connection: Connection) -> int:
    """How many messages are still to be sent."""
    return (await connection.execute(sa.select(sa.func.count()).where(_T.c.sent_at.is_(None)))).scalar_one()


async def mark_sent(connection: Connection, ids: Sequence[int], *, now: float) -> None:
    """The broker has these."""
    if ids:
        await connection.execute(sa.update(_T).where(_T.c.id.in_(ids)).values(sent_at=now))


async def trim(connection: Connection, *, before: float) -> None:
    """Forget messages that were sent before `before`."""
    await connection.execute(sa.delete(_T).where(_T.c.sent_at < before))
