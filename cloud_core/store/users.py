"""People who log in; disabled ones stay in the table, because the audit names them."""

import msgspec
import sqlalchemy as sa

from cloud_core.store import events, tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import changed, columns, every, first, insert

_T = tables.users


class User(msgspec.Struct, frozen=True, kw_only=True):
    """One user who may log in."""

    name: str
    role: str
    created_at: float


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """What a login is checked against."""

    name: str
    role: str
    password_hash: str


async def create(
    connection: Connection, tenant: str, name: str, *, role: str, password_hash: str, now: float
) -> User | None:
    """A new user; None if there is one of that name. A disabled one comes back with the new role and password."""
    values = {"role": role, "password_hash": password_hash, "created_at": now, "disabled_at": None}
    statement = (
        insert(connection, _T)
        .values(tenant=tenant, name=name, **values)
        .on_conflict_do_update(
            index_elements=[_T.c.tenant, _T.c.name], set_=values, where=_T.c.disabled_at.is_not(None)
        )
    )
    if await changed(connection, statement) == 0:
        return None
    await events.append(connection, tenant, kind="created", resource="users", name=name, now=now)
    return await get(connection, tenant, name)


async def get(connection: Connection, tenant: str, name: str) -> User | None:
    """One user who is not disabled."""
    return await first(connection, _enabled(tenant, User).where(_T.c.name == name), User)


async def login(connection: Connection, tenant: str, name: str) -> Login | None:
    """What a login of `name` is checked against; None if there is no such user."""
    return await first(connection, _enabled(tenant, Login).where(_T.c.name == name), Login)


async def page(connection: Connection, tenant: str, *, after: str = "", limit: int = 100) -> list[User]:
    """Users by name from the one behind `after`."""
    statement = _enabled(tenant, User).where(_T.c.name > after).order_by(_T.c.name).limit(limit)
    return await every(connection, statement, User)


async def with_role(connection: Connection, tenant: str, role: str) -> list[str]:
    """Names of the users of one role, locked until this transaction ends."""
    statement = _enabled(tenant, User).where(_T.c.role == role).order_by(_T.c.name).with_for_update()
    return [user.name for user in await every(connection, statement, User)]


async def set_password(connection: Connection, tenant: str, name: str, *, password_hash: str, now: float) -> bool:
    """Another password; False if there is no such user."""
    return await _update(connection, tenant, name, kind="updated", now=now, password_hash=password_hash)


async def disable(connection: Connection, tenant: str, name: str, *, now: float) -> bool:
    """No login any more; False if there is no such user."""
    return await _update(connection, tenant, name, kind="deleted", now=now, disabled_at=now)


async def _update(connection: Connection, tenant: str, name: str, *, kind: str, now: float, **values: object) -> bool:
    own = sa.and_(_T.c.tenant == tenant, _T.c.name == name, _T.c.disabled_at.is_(None))
    if await changed(connection, sa.update(_T).where(own).values(**values)) == 0:
        return False
    await events.append(connection, tenant, kind=kind, resource="users", name=name, now=now)
    return True


def _enabled(tenant: str, into: type[msgspec.Struct]) -> sa.Select[tuple[object, ...]]:
    return sa.select(*columns(_T, into)).where(_T.c.tenant == tenant, _T.c.disabled_at.is_(None))
