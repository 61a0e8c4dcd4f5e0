"""Who is there, over all tenants at once: what the loops need to judge, to lose and to find devices."""

from collections.abc import Collection, Sequence

import msgspec
import sqlalchemy as sa

from cloud_core.store import events, tables
from cloud_core.store.bulk import execute_rows, given
from cloud_core.store.database import Connection
from cloud_core.store.rows import changed, columns, every
from shared.protocol.reported import Hardware

_T = tables.devices
ONLINE, LOST = "online", "lost"
"""Kinds of the events that silence and its end cause; births and deaths say `online` and `offline`."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What presence is judged by; times in Unix seconds."""

    tenant: str
    device: str
    epoch: int | None
    born_at: float | None
    died_at: float | None
    last_seen: float | None


Looks = Sequence[tuple[int | None, float | None, float | None, float | None]]
"""Epoch, birth, death and when it was last heard, of each device."""


async def of_tenant(connection: Connection, tenant: str) -> Looks:
    """What the presence of a tenant's devices is judged by, and nothing else of them."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.deleted_at.is_(None))
    statement = sa.select(_T.c.epoch, _T.c.born_at, _T.c.died_at, _T.c.last_seen).where(own)
    return [(epoch, born, died, seen) for epoch, born, died, seen in (await connection.execute(statement)).all()]


async def everyone(connection: Connection) -> list[Row]:
    """Every device of every tenant that is not deleted."""
    return await every(connection, sa.select(*columns(_T, Row)).where(_T.c.deleted_at.is_(None)), Row)


async def enrolled(connection: Connection, tenant: str) -> tuple[str, ...]:
    """The devices of a tenant that can be told what to run, by name."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.deleted_at.is_(None), _T.c.enrolled_at.is_not(None))
    return tuple((await connection.execute(sa.select(_T.c.device).where(own).order_by(_T.c.device))).scalars())


async def known(connection: Connection, names: Collection[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Which of these (tenant, device) there are."""
    own = given(connection, {"tenant": _T.c.tenant.type, "device": _T.c.device.type}, list(names))
    joined = own.join(_T, sa.and_(_T.c.tenant == own.c.tenant, _T.c.device == own.c.device))
    statement = sa.select(_T.c.tenant, _T.c.device).select_from(joined).where(_T.c.deleted_at.is_(None))
    return frozenset((tenant, device) for tenant, device in (await connection.execute(statement)).all())


async def reports(connection: Connection, tenant: str) -> dict[str, str]:
    """The held report (JSON text of `Reported`) of every device of a tenant that is there and sent one."""
    own = sa.and_(
        _T.c.tenant == tenant,
        _T.c.deleted_at.is_(None),
        _T.c.died_at.is_(None),
        _T.c.reported.is_not(None),
    )
    rows = await connection.execute(sa.select(_T.c.device, _T.c.reported).where(own))
    return {device: text for device, text in rows.all()}  # noqa: C416 - typed rows are no pairs to dict()


async def hardware_classes(connection: Connection, tenant: str) -> dict[str, str]:
    """The hardware class of every enrolled device of a tenant that said what it is."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.deleted_at.is_(None), _T.c.hardware.is_not(None))
    rows = await connection.execute(sa.select(_T.c.device, _T.c.hardware).where(own))
    return {device: msgspec.json.decode(text, type=Hardware).hardware_class for device, text in rows.all()}


async def heard(connection: Connection, names: Collection[tuple[str, str]], *, now: float) -> None:
    """Something came from these."""
    own = sa.and_(_T.c.tenant == sa.bindparam("own_tenant"), _T.c.device == sa.bindparam("own_device"))
    statement = sa.update(_T).where(own, _T.c.deleted_at.is_(None)).values(last_seen=sa.bindparam("now"))
    await execute_rows(
        connection,
        statement,
        ("own_tenant", "own_device", "now"),
        [(tenant, device, now) for tenant, device in names],
    )


async def infer_birth(connection: Connection, tenant: str, device: str, *, epoch: int, now: float) -> bool:
    """A report came from connection `epoch`, whose birth was not heard (the loops were away): the device is there since then."""
    newer = sa.or_(_T.c.epoch.is_(None), _T.c.epoch < epoch)
    own = sa.and_(_T.c.tenant == tenant, _T.c.device == device, _T.c.deleted_at.is_(None), newer)
    values = {"epoch": epoch, "born_at": now, "died_at": None, "last_seen": now}
    if await changed(connection, sa.update(_T).where(own).values(**values)) == 0:
        return False
    await events.append(connection, tenant, kind=ONLINE, resource="devices", name=device, now=now)
    return True


async def lose_silent(connection: Connection, *, before: float, now: float) -> Sequence[tuple[str, str]]:
    """Take those for gone that were last heard before `before`, each with an event; who they were."""
    silent = sa.and_(
        _T.c.deleted_at.is_(None), _T.c.epoch.is_not(None), _T.c.died_at.is_(None), _T.c.last_seen < before
    )
    return await _mark(connection, silent, died_at=now, kind=LOST, now=now)


async def find_heard(connection: Connection, *, now: float) -> Sequence[tuple[str, str]]:
    """Take those for there again that were heard after they seemed gone, each with an event; who they were."""
    again = sa.and_(_T.c.deleted_at.is_(None), _T.c.epoch.is_not(None), _T.c.last_seen > _T.c.died_at)
    return await _mark(connection, again, died_at=None, kind=ONLINE, now=now)


async def _mark(
    connection: Connection, which: sa.ColumnElement[bool], *, died_at: float | None, kind: str, now: float
) -> Sequence[tuple[str, str]]:
    statement = sa.update(_T).where(which).values(died_at=died_at).returning(_T.c.tenant, _T.c.device)
    found = [(tenant, device) for tenant, device in (await connection.execute(statement)).all()]
    for tenant, device in found:
        await events.append(connection, tenant, kind=kind, resource="devices", name=device, now=now)
    return found
