"""What each group of devices should run: models, policy, limits; the highest priority wins where groups disagree."""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from cloud_core.store import events, tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import changed, columns, every, first, insert, text_of
from shared.protocol.desired import Limits
from shared.serving.decide.ways import Way

_T = tables.assignments


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model version a group should run; `variant` None leaves the choice to each device.

    `tuned`, by hardware class: how it was found to run best on devices of that class, which then need not measure it.
    """

    name: str
    version: str
    variant: str | None = None
    tuned: dict[str, Way] = {}


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One group's assignment; `models` and `limits` are JSON text of `Wanted`s and `Limits`."""

    group: str
    models: str
    policy: str | None
    limits: str
    priority: int
    revision: int
    updated_at: float

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """The models, decoded."""
        return msgspec.json.decode(self.models, type=tuple[Wanted, ...])

    @property
    def limits_value(self) -> Limits:
        """The limits, decoded."""
        return msgspec.json.decode(self.limits, type=Limits)


async def put(
    connection: Connection,
    tenant: str,
    group: str,
    *,
    models: Sequence[Wanted],
    policy: str | None,
    limits: Limits,
    priority: int,
    now: float,
) -> Assignment:
    """Set what `group` should run; the caller has checked that all of it exists."""
    values = {
        "models": text_of(models),
        "policy": policy,
        "limits": text_of(limits),
        "priority": priority,
        "updated_at": now,
    }
    await connection.execute(
        insert(connection, _T)
        .values(tenant=tenant, group=group, revision=1, **values)
        .on_conflict_do_update(index_elements=[_T.c.tenant, _T.c.group], set_={**values, "revision": _T.c.revision + 1})
    )
    await events.append(connection, tenant, kind="updated", resource="assignments", name=group, now=now)
    stored = await get(connection, tenant, group)
    assert stored is not None  # noqa: S101 - written above, in this transaction
    return stored


async def get(connection: Connection, tenant: str, group: str, *, lock: bool = False) -> Assignment | None:
    """One group's assignment. `lock` keeps it as it is until this transaction ends."""
    statement = _own(tenant).where(_T.c.group == group)
    return await first(connection, statement.with_for_update() if lock else statement, Assignment)


async def everywhere(connection: Connection, tenant: str) -> list[Assignment]:
    """All assignments of a tenant, by group."""
    return await every(connection, _own(tenant).order_by(_T.c.group), Assignment)


async def page(connection: Connection, tenant: str, *, after: str = "", limit: int = 100) -> list[Assignment]:
    """Assignments by group from the one behind `after`."""
    statement = _own(tenant).where(_T.c.group > after).order_by(_T.c.group).limit(limit)
    return await every(connection, statement, Assignment)


async def delete(connection: Connection, tenant: str, group: str, *, now: float) -> bool:
    """The group asks for nothing any more; False if it did not."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.group == group)
    found = await changed(connection, sa.delete(_T).where(own)) > 0
    if found:
        await events.append(connection, tenant, kind="deleted", resource="assignments", name=group, now=now)
    return found


def _own(tenant: str) -> sa.Select[tuple[object, ...]]:
    return sa.select(*columns(_T, Assignment)).where(_T.c.tenant == tenant)
