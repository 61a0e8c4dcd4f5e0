"""Samples from devices, once each by (device, epoch, seq), however often they are sent; and what of them was acknowledged.

Everything here takes many devices at once: the ingest writes hundreds of messages in one transaction.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from cloud_core.decide.device_clock import Offset
from cloud_core.store import tables, telemetry_tables
from cloud_core.store.bulk import execute_rows, given
from cloud_core.store.database import Connection
from cloud_core.store.rows import insert, text_of
from shared.protocol.telemetry import Sample

_LOCK = 0x7469_6D65
_T, _U, _M = telemetry_tables.samples, telemetry_tables.uplinks, tables.group_members
_KEPT = ("tenant", "device", "epoch", "seq", "ended_at", "groups", "sample")
Name = tuple[str, str]


class Source(NamedTuple):
    """One life of a device's spool."""

    tenant: str
    device: str
    epoch: int


class Uplink(NamedTuple):
    """What is known of a source: acknowledged up to `seq` (None: nothing yet), and its clock."""

    seq: int | None
    clock: Offset


class Row(NamedTuple):
    """One sample to be kept; `groups` are its device's now."""

    source: Source
    groups: tuple[str, ...]
    sample: Sample


class Kept(NamedTuple):
    """One sample that is kept, as the rollup reads it."""

    id: int
    tenant: str
    device: str
    groups: tuple[str, ...]
    sample: Sample


async def take_turn(connection: Connection) -> None:
    """Wait for the others who store samples: ids become visible in their order, so a cursor misses none. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


async def store(connection: Connection, rows: Sequence[Row]) -> set[tuple[Source, int]]:
    """Keep the samples that are new; which were. The caller makes sure that the devices exist, and took its turn."""
    if not rows:
        return set()
    statement = (
        insert(connection, _T).on_conflict_do_nothing().returning(_T.c.tenant, _T.c.device, _T.c.epoch, _T.c.seq)
    )
    values = [dict(zip(_KEPT, _values(row), strict=True)) for row in rows]
    new = (await connection.execute(statement, values)).all()
    return {(Source(tenant, device, epoch), seq) for tenant, device, epoch, seq in new}


async def store_new(connection: Connection, rows: Sequence[Row]) -> None:
    """Keep samples that are known to be new, at half of what `store` costs: nothing is asked back."""
    statement = insert(connection, _T).on_conflict_do_nothing()
    await execute_rows(connection, statement, _KEPT, [_values(row) for row in rows])


async def uplinks(connection: Connection, sources: Collection[Source]) -> dict[Source, Uplink]:
    """What is known of these sources."""
    columns = ("tenant", "device", "epoch")
    own = given(connection, {name: _U.c[name].type for name in columns}, list(sources))
    joined = own.join(_U, sa.and_(*(_U.c[name] == own.c[name] for name in columns)))
    statement = sa.select(_U.c.tenant, _U.c.device, _U.c.epoch, _U.c.seq, _U.c.clock).select_from(joined)
    return {
        Source(tenant, device, epoch): Uplink(seq, msgspec.json.decode(clock, type=Offset))
        for tenant, device, epoch, seq, clock in (await connection.execute(statement)).all()
    }


async def keep_uplinks(connection: Connection, known: Mapping[Source, Uplink], *, now: float) -> None:
    """Remember this of the sources."""
    statement = insert(connection, _U)
    columns = ("seq", "clock", "heard_at")
    statement = statement.on_conflict_do_update(
        index_elements=[_U.c.tenant, _U.c.device, _U.c.epoch],
        set_={name: statement.excluded[name] for name in columns},
    )
    values = [(*source, uplink.seq, text_of(uplink.clock), now) for source, uplink in known.items()]
    await execute_rows(connection, statement, ("tenant", "device", "epoch", *columns), values)


async def groups_of(connection: Connection, names: Collection[Name]) -> dict[Name, tuple[str, ...]]:
    """The groups each of these devices is in."""
    own = given(connection, {"tenant": _M.c.tenant.type, "device": _M.c.device.type}, list(names))
    same = _M.c.device == own.c.device
    # Without statistics SQLite takes the primary key, which knows the tenant alone, because it covers the columns.
    rare = sa.func.unlikely(same) if connection.dialect.name == "sqlite" else same
    joined = own.join(_M, sa.and_(_M.c.tenant == own.c.tenant, same, rare))
    statement = sa.select(_M.c.tenant, _M.c.device, _M.c.group).select_from(joined)
    found: dict[Name, list[str]] = {}
    for tenant, device, group in (await connection.execute(statement)).all():
        found.setdefault((tenant, device), []).append(group)
    return {name: tuple(sorted(groups)) for name, groups in found.items()}


async def after(connection: Connection, last: int, *, limit: int) -> list[Kept]:
    """Samples of all tenants with an id above `last`, oldest first."""
    statement = sa.select(_T.c.id, _T.c.tenant, _T.c.device, _T.c.groups, _T.c.sample).where(_T.c.id > last)
    return _kept((await connection.execute(statement.order_by(_T.c.id).limit(limit))).all())


async def newest_id(connection: Connection) -> int:
    """The id of the newest sample; 0 for none."""
    return int((await connection.execute(sa.select(sa.func.coalesce(sa.func.max(_T.c.id), 0)))).scalar_one())


async def within(connection: Connection, tenant: str, *, start: float, end: float, last: int) -> list[Kept]:
    """Samples of a tenant that touch [start, end), with an id up to `last`."""
    statement = sa.select(_T.c.id, _T.c.tenant, _T.c.device, _T.c.groups, _T.c.sample)
    own = sa.and_(_T.c.tenant == tenant, _T.c.id <= last, _T.c.ended_at >= start)
    kept = _kept((await connection.execute(statement.where(own).order_by(_T.c.id))).all())
    return [one for one in kept if one.sample.started_at < end]


async def trim(connection: Connection, *, before: float) -> None:
    """Forget samples that ended before `before`, and sources that were silent since."""
    await connection.execute(sa.delete(_T).where(_T.c.ended_at < before))
    await connection.execute(sa.delete(_U).where(_U.c.heard_at < before))


def _kept(rows: Iterable[Sequence[Any]]) -> list[Kept]:
    return [
        Kept(
            id_,
            tenant,
            device,
            msgspec.json.decode(groups, type=tuple[str, ...]),
            msgspec.json.decode(text, type=Sample),
        )
        for id_, tenant, device, groups, text in rows
    ]


def _values(row: Row) -> tuple[object, ...]:
    """In the order of `_KEPT`."""
    sample = row.sample
    return (*row.source, sample.seq, sample.ended_at, text_of(row.groups), text_of(sample))
