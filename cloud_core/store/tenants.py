"""Tenants: the walls between customers. Every other row belongs to one."""

import sqlalchemy as sa

from cloud_core.keys import SERVICE_USER
from cloud_core.store import events, tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import changed, insert
from shared.protocol import names
from shared.protocol.errors import Refusal, Refused

DEFAULT = "default"
_T = tables.tenants


async def create(connection: Connection, tenant: str, *, now: float) -> bool:
    """A new tenant; False if there is one of that name.

    Raises:
        Refused: not a slug, or the name the control plane itself has on MQTT: `cloud-core/gateway` must never be a device.

    """
    names.checked("slug", tenant, field="tenant")
    if tenant == SERVICE_USER:
        allowed = f"any slug but {SERVICE_USER}"
        raise Refused("a reserved name", kind=Refusal.UNPROCESSABLE, field="tenant", value=tenant, allowed=allowed)
    statement = insert(connection, _T).values(tenant=tenant, created_at=now).on_conflict_do_nothing()
    if await changed(connection, statement) == 0:
        return False
    await events.append(connection, tenant, kind="created", resource="tenants", name=tenant, now=now)
    return True


async def exists(connection: Connection, tenant: str) -> bool:
    """Whether there is such a tenant."""
    return (await connection.execute(sa.select(_T.c.tenant).where(_T.c.tenant == tenant))).first() is not None


async def hold(connection: Connection, tenant: str, *, alone: bool) -> None:
    """Hold a tenant's chunks as they are until this transaction ends: with others who publish, or alone, to remove some.

    On SQLite a write transaction is alone anyway.
    """
    own = sa.select(_T.c.tenant).where(_T.c.tenant == tenant)
    await connection.execute(own.with_for_update(key_share=True) if alone else own.with_for_update(read=True))


async def every_name(connection: Connection) -> list[str]:
    """All tenants, by name: for the loops, which speak for each in turn."""
    return list((await connection.execute(sa.select(_T.c.tenant).order_by(_T.c.tenant))).scalars())
