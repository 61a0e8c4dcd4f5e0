"""Groups of devices and who is in them."""

import msgspec
import sqlalchemy as sa

from cloud_core.store import events, tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import changed, columns, every, first, insert

_T, _M = tables.groups, tables.group_members


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """One group; its revision rises with its members."""

    name: str
    description: str
    revision: int
    created_at: float


async def create(connection: Connection, tenant: str, name: str, *, description: str, now: float) -> Group | None:
    """A new group without members; None if there is one of that name."""
    statement = (
        insert(connection, _T)
        .values(tenant=tenant, name=name, description=description, revision=1, created_at=now)
        .on_conflict_do_nothing()
    )
    if await changed(connection, statement) == 0:
        return None
    await events.append(connection, tenant, kind="created", resource="groups", name=name, now=now)
    return await get(connection, tenant, name)


async def get(connection: Connection, tenant: str, name: str, *, lock: bool = False) -> Group | None:
    """One group. `lock` keeps it as it is until this transaction ends."""
    statement = _own(tenant).where(_T.c.name == name)
    return await first(connection, statement.with_for_update() if lock else statement, Group)


async def page(connection: Connection, tenant: str, *, after: str = "", limit: int = 100) -> list[Group]:
    """Groups by name from the one behind `after`."""
    return await every(connection, _own(tenant).where(_T.c.name > after).order_by(_T.c.name).limit(limit), Group)


async def delete(connection: Connection, tenant: str, name: str, *, now: float) -> bool:
    """Drop a group, its members stay as devices; the caller has made sure it has no assignment."""
    found = await changed(connection, sa.delete(_T).where(_T.c.tenant == tenant, _T.c.name == name)) > 0
    if found:
        await events.append(connection, tenant, kind="deleted", resource="groups", name=name, now=now)
    return found


async def members(connection: Connection, tenant: str, name: str) -> list[str]:
    """Devices of one group, by name."""
    statement = sa.select(_M.c.device).where(_M.c.tenant == tenant, _M.c.group == name).order_by(_M.c.device)
    return list((await connection.execute(statement)).scalars())


async def memberships(connection: Connection, tenant: str) -> dict[str, tuple[str, ...]]:
    """Groups of every device of a tenant that is in one, by device."""
    statement = sa.select(_M.c.device, _M.c.group).where(_M.c.tenant == tenant).order_by(_M.c.device, _M.c.group)
    found: dict[str, tuple[str, ...]] = {}
    for device, group in (await connection.execute(statement)).all():
        found[device] = (*found.get(device, ()), group)
    return found


async def add(connection: Connection, tenant: str, name: str, device: str, *, now: float) -> bool:
    """Put a device into a group; False if it was there. The caller has made sure both exist."""
    statement = insert(connection, _M).values(tenant=tenant, group=name, device=device).on_conflict_do_nothing()
    if await changed(connection, statement) == 0:
        return False
    await _touch(connection, tenant, name, device, kind="member-added", now=now)
    return True


async def remove(connection: Connection, tenant: str, name: str, device: str, *, now: float) -> bool:
    """Take a device out of a group; False if it was not in it."""
    own = sa.and_(_M.c.tenant == tenant, _M.c.group == name, _M.c.device == device)
    if await changed(connection, sa.delete(_M).where(own)) == 0:
        return False
    await _touch(connection, tenant, name, device, kind="member-removed", now=now)
    return True


async def _touch(connection: Connection, tenant: str, name: str, device: str, *, kind: str, now: float) -> None:
    own = sa.and_(_T.c.tenant == tenant, _T.c.name == name)
    await connection.execute(sa.update(_T).where(own).values(revision=_T.c.revision + 1))
    await events.append(connection, tenant, kind=kind, resource="groups", name=name, now=now, data={"device": device})


def _own(tenant: str) -> sa.Select[tuple[object, ...]]:
    return sa.select(*columns(_T, Group)).where(_T.c.tenant == tenant)
