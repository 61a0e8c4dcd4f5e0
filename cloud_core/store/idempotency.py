"""Answers already given, by the caller's key: a request that is sent again gets the same answer and does nothing more."""

import msgspec
import sqlalchemy as sa

from cloud_core.store import tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import changed, columns, first, insert

_T = tables.idempotency


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to the first request with a key; `request_hash` tells whether a second one is the same."""

    request_hash: str
    status: int
    answer: str


async def claim(connection: Connection, tenant: str, key: str, *, request_hash: str, now: float) -> Given | None:
    """None: the key is new and now this transaction's. Otherwise what was answered.

    A second request with the key waits here until the first one's transaction ends, so both never run.
    """
    statement = (
        insert(connection, _T)
        .values(tenant=tenant, key=key, request_hash=request_hash, status=0, answer="", created_at=now)
        .on_conflict_do_nothing()
    )
    if await changed(connection, statement) > 0:
        return None
    own = sa.and_(_T.c.tenant == tenant, _T.c.key == key)
    return await first(connection, sa.select(*columns(_T, Given)).where(own), Given)


async def keep(connection: Connection, tenant: str, key: str, *, status: int, answer: str) -> None:
    """The answer to the request that claimed `key`, in the same transaction."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.key == key)
    await connection.execute(sa.update(_T).where(own).values(status=status, answer=answer))


async def trim(connection: Connection, *, before: float) -> None:
    """Forget keys older than `before`."""
    await connection.execute(sa.delete(_T).where(_T.c.created_at < before))
