"""API tokens: for programs and integrators; only the SHA-256 of a token is kept."""

import msgspec
import sqlalchemy as sa

from cloud_core.store import events, tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import changed, columns, every, first

_T = tables.tokens


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """One token that is not revoked, without its secret."""

    id: str
    name: str
    role: str
    created_at: float
    expires_at: float | None


class Bearer(msgspec.Struct, frozen=True, kw_only=True):
    """Who a presented token speaks for."""

    tenant: str
    id: str
    name: str
    role: str
    expires_at: float | None


async def create(
    connection: Connection,
    tenant: str,
    id: str,
    *,
    name: str,
    role: str,
    token_hash: str,
    expires_at: float | None,
    now: float,
) -> Token:
    """A new token."""
    token = Token(id=id, name=name, role=role, created_at=now, expires_at=expires_at)
    values = msgspec.structs.asdict(token)
    await connection.execute(sa.insert(_T).values(tenant=tenant, token_hash=token_hash, **values))
    await events.append(connection, tenant, kind="created", resource="tokens", name=id, now=now)
    return token


async def bearer(connection: Connection, token_hash: str, *, now: float) -> Bearer | None:
    """Whose token this is. The one lookup without a tenant: the token is what names it."""
    alive = sa.and_(_T.c.revoked_at.is_(None), sa.or_(_T.c.expires_at.is_(None), _T.c.expires_at > now))
    statement = sa.select(*columns(_T, Bearer)).where(_T.c.token_hash == token_hash, alive)
    return await first(connection, statement, Bearer)


async def get(connection: Connection, tenant: str, id: str) -> Token | None:
    """One token."""
    return await first(connection, _alive(tenant).where(_T.c.id == id), Token)


async def page(connection: Connection, tenant: str, *, after: str = "", limit: int = 100) -> list[Token]:
    """Tokens by id from the one behind `after`."""
    return await every(connection, _alive(tenant).where(_T.c.id > after).order_by(_T.c.id).limit(limit), Token)


async def revoke(connection: Connection, tenant: str, id: str, *, now: float) -> bool:
    """The token is worth nothing any more; False if there is none."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.id == id, _T.c.revoked_at.is_(None))
    if await changed(connection, sa.update(_T).where(own).values(revoked_at=now)) == 0:
        return False
    await events.append(connection, tenant, kind="deleted", resource="tokens", name=id, now=now)
    return True


def _alive(tenant: str) -> sa.Select[tuple[object, ...]]:
    return sa.select(*columns(_T, Token)).where(_T.c.tenant == tenant, _T.c.revoked_at.is_(None))
