"""Samples from devices, once each by (device, epoch, seq), however often they are sent; and what of them was acknowledged.

Everything here takes many devices at once: the ingest writes hundreds of messages in one transaction.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa

from cloud_core.decide.device_clock import Offset
from cloud_core.store import tables, telemetry_tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import insert, text_of
from shared.protocol.telemetry import Sample

AT_ONCE = 500
"""Names or keys in one statement: SQLite takes 32,766 variables."""
_LOCK = 0x7469_6D65
_T, _U, _M = telemetry_tables.samples, telemetry_tables.uplinks, tables.group_members
Name = tuple[str, str]
V = TypeVar("V")


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
    values = [
        {
            **row.source._asdict(),
            "seq": row.sample.seq,
            "ended_at": row.sample.ended_at,
            "groups": text_of(row.groups),
            "sample": text_of(row.sample),
        }
        for row in rows
    ]
    statement = (
        insert(connection, _T).on_conflict_do_nothing().returning(_T.c.tenant, _T.c.device, _T.c.epoch, _T.c.seq)
    )
    new = (await connection.execute(statement, values)).all()
    return {(Source(tenant, device, epoch), seq) for tenant, device, epoch, seq in new}


async def uplinks(connection: Connection, sources: Collection[Source]) -> dict[Source, Uplink]:
    """What is known of these sources."""
    found: dict[Source, Uplink] = {}
    for some in pieces(list(sources)):
        statement = sa.select(_U.c.tenant, _U.c.device, _U.c.epoch, _U.c.seq, _U.c.clock).where(_is_one_of(_U, some))
        for tenant, device, epoch, seq, clock in (await connection.execute(statement)).all():
            found[Source(tenant, device, epoch)] = Uplink(seq, msgspec.json.decode(clock, type=Offset))
    return found


async def keep_uplinks(connection: Connection, known: Mapping[Source, Uplink], *, now: float) -> None:
    """Remember this of the sources."""
    if not known:
        return
    values = [
        {**source._asdict(), "seq": uplink.seq, "clock": text_of(uplink.clock), "heard_at": now}
        for source, uplink in known.items()
    ]
    statement = insert(connection, _U)
    columns = ("seq", "clock", "heard_at")
    statement = statement.on_conflict_do_update(
        index_elements=[_U.c.tenant, _U.c.device, _U.c.epoch],
        set_={name: statement.excluded[name] for name in columns},
    )
    await connection.execute(statement, values)


async def groups_of(connection: Connection, names: Collection[Name]) -> dict[Name, tuple[str, ...]]:
    """The groups each of these devices is in."""
    found: dict[Name, tuple[str, ...]] = {}
    for some in pieces(list(names)):
        own = sa.tuple_(_M.c.tenant, _M.c.device).in_(some)
        statement = sa.select(_M.c.tenant, _M.c.device, _M.c.group).where(own).order_by(_M.c.group)
        for tenant, device, group in (await connection.execute(statement)).all():
            found[tenant, device] = (*found.get((tenant, device), ()), group)
    return found


async def lately(connection: Connection, names: Collection[Name], *, ended_after: float) -> dict[Name, list[Sample]]:
    """The samples of these devices that ended after `ended_after`."""
    found: dict[Name, list[Sample]] = {}
    for some in pieces(list(names)):
        own = sa.and_(sa.tuple_(_T.c.tenant, _T.c.device).in_(some), _T.c.ended_at > ended_after)
        rows = await connection.execute(sa.select(_T.c.tenant, _T.c.device, _T.c.sample).where(own))
        for tenant, device, text in rows.all():
            found.setdefault((tenant, device), []).append(msgspec.json.decode(text, type=Sample))
    return found


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


def pieces(values: Sequence[V]) -> Iterator[Sequence[V]]:
    """The values, as many at a time as one statement takes."""
    return (values[i : i + AT_ONCE] for i in range(0, len(values), AT_ONCE))


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


def _is_one_of(table: sa.Table, sources: Sequence[Source]) -> sa.ColumnElement[bool]:
    return sa.tuple_(table.c.tenant, table.c.device, table.c.epoch).in_([tuple(source) for source in sources])
