"""Routing policies by name; each change raises the revision."""

import msgspec
import sqlalchemy as sa

from cloud_core.store import events, tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import changed, columns, every, first, insert, text_of
from shared.protocol.policy import Policy, parse_policy

_T = tables.policies


class StoredPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """One policy; `document` is its JSON text."""

    name: str
    document: str
    revision: int
    created_at: float
    updated_at: float

    @property
    def policy(self) -> Policy:
        """The document as a value."""
        return parse_policy(self.document.encode())


async def put(connection: Connection, tenant: str, name: str, *, policy: Policy, now: float) -> StoredPolicy:
    """Set a policy; the caller has checked it against the assignments that use it. A deleted one comes back."""
    values = {"document": text_of(policy), "updated_at": now, "deleted_at": None}
    await connection.execute(
        insert(connection, _T)
        .values(tenant=tenant, name=name, revision=1, created_at=now, **values)
        .on_conflict_do_update(index_elements=[_T.c.tenant, _T.c.name], set_={**values, "revision": _T.c.revision + 1})
    )
    await events.append(connection, tenant, kind="updated", resource="policies", name=name, now=now)
    stored = await get(connection, tenant, name)
    assert stored is not None  # noqa: S101 - written above, in this transaction
    return stored


async def get(connection: Connection, tenant: str, name: str, *, lock: bool = False) -> StoredPolicy | None:
    """One policy. `lock` keeps it from being deleted or changed until this transaction ends."""
    statement = _present(tenant).where(_T.c.name == name)
    return await first(connection, statement.with_for_update() if lock else statement, StoredPolicy)


async def page(connection: Connection, tenant: str, *, after: str = "", limit: int = 100) -> list[StoredPolicy]:
    """Policies by name from the one behind `after`."""
    statement = _present(tenant).where(_T.c.name > after).order_by(_T.c.name).limit(limit)
    return await every(connection, statement, StoredPolicy)


async def everywhere(connection: Connection, tenant: str) -> dict[str, StoredPolicy]:
    """All policies of a tenant, by name."""
    found = await every(connection, _present(tenant), StoredPolicy)
    return {policy.name: policy for policy in found}


async def delete(connection: Connection, tenant: str, name: str, *, now: float) -> bool:
    """Hide a policy; False if there is none."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.name == name, _T.c.deleted_at.is_(None))
    found = await changed(connection, sa.update(_T).where(own).values(deleted_at=now, revision=_T.c.revision + 1)) > 0
    if found:
        await events.append(connection, tenant, kind="deleted", resource="policies", name=name, now=now)
    return found


def _present(tenant: str) -> sa.Select[tuple[object, ...]]:
    return sa.select(*columns(_T, StoredPolicy)).where(_T.c.tenant == tenant, _T.c.deleted_at.is_(None))
