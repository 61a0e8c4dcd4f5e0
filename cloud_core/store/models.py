"""Model names of a tenant; their versions are in `versions`."""

import msgspec
import sqlalchemy as sa

from cloud_core.store import events, tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import changed, columns, every, first, insert

_T = tables.models


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model."""

    name: str
    description: str
    revision: int
    created_at: float


async def create(connection: Connection, tenant: str, name: str, *, description: str, now: float) -> Model | None:
    """A new model; None if there is one of that name. A deleted one comes back, its versions stay deleted."""
    statement = (
        insert(connection, _T)
        .values(tenant=tenant, name=name, description=description, revision=1, created_at=now)
        .on_conflict_do_update(
            index_elements=[_T.c.tenant, _T.c.name],
            set_={"description": description, "deleted_at": None, "revision": _T.c.revision + 1},
            where=_T.c.deleted_at.is_not(None),
        )
    )
    if await changed(connection, statement) == 0:
        return None
    await events.append(connection, tenant, kind="created", resource="models", name=name, now=now)
    return await get(connection, tenant, name)


async def get(connection: Connection, tenant: str, name: str, *, lock: bool = False) -> Model | None:
    """One model that is not deleted. `lock` keeps it as it is until this transaction ends."""
    statement = _present(tenant).where(_T.c.name == name)
    return await first(connection, statement.with_for_update() if lock else statement, Model)


async def page(connection: Connection, tenant: str, *, after: str = "", limit: int = 100) -> list[Model]:
    """Models by name from the one behind `after`."""
    return await every(connection, _present(tenant).where(_T.c.name > after).order_by(_T.c.name).limit(limit), Model)


async def delete(connection: Connection, tenant: str, name: str, *, now: float) -> bool:
    """Hide a model; the caller has made sure that no version of it is left."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.name == name, _T.c.deleted_at.is_(None))
    found = await changed(connection, sa.update(_T).where(own).values(deleted_at=now, revision=_T.c.revision + 1)) > 0
    if found:
        await events.append(connection, tenant, kind="deleted", resource="models", name=name, now=now)
    return found


def _present(tenant: str) -> sa.Select[tuple[object, ...]]:
    return sa.select(*columns(_T, Model)).where(_T.c.tenant == tenant, _T.c.deleted_at.is_(None))
