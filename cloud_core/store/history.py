"""History of telemetry: one row per window, scope and key. Rows are added to, or made anew from the samples they come from."""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa

from cloud_core.decide.ranges import Span
from cloud_core.decide.rollup import Cell, Key, added
from cloud_core.store import partitions
from cloud_core.store.bulk import execute_rows, given
from cloud_core.store.database import Connection
from cloud_core.store.rows import insert, text_of
from cloud_core.store.telemetry_tables import HISTORY

TENANT, GROUP, DEVICE = "tenant", "group", "device"
DAY_S = 86400.0
KEPT_S: Mapping[int, float] = {10: 2 * DAY_S, 60: 14 * DAY_S, 3600: 400 * DAY_S}
"""Retention, by length of window. Of devices alone windows of 10 s are not kept."""
_KEY = ("tenant", "scope", "name", "started_at", "model", "version", "place")
K = TypeVar("K", bound=Hashable)


class Place(NamedTuple):
    """Where a cell belongs, in the order of the table's key."""

    tenant: str
    scope: str
    name: str
    started_at: int
    key: Key


class Found(NamedTuple):
    """One cell that was read, still as text; `seconds` is how long its window is."""

    name: str
    started_at: int
    seconds: int
    key: Key
    text: str

    @property
    def cell(self) -> Cell:
        """What it says."""
        return msgspec.json.decode(self.text, type=Cell)


class Selector(NamedTuple):
    """Whose history, and which of it; None for all. `names` are of groups or devices."""

    tenant: str
    scope: str = TENANT
    names: Sequence[str] | None = ("",)
    model: str | None = None
    versions: Sequence[str] | None = None
    place: str | None = None


async def add(connection: Connection, seconds: int, cells: Mapping[Place, Cell]) -> None:
    """Add these to what is there. The caller sees to it that nobody else does so at the same time."""
    table = HISTORY[seconds]
    # First of all: making one needs the table for itself, which two that have read it would not give each other.
    await partitions.ensure(connection, seconds, {place.started_at for place in cells})
    own = given(connection, {name: table.c[name].type for name in _KEY}, [_columns(place) for place in cells])
    joined = own.join(table, sa.and_(*(table.c[name] == own.c[name] for name in _KEY)))
    statement = sa.select(*(table.c[name] for name in _KEY), table.c.cell).select_from(joined)
    held = {
        Place(tenant, scope, name, at, Key(*key)): msgspec.json.decode(text, type=Cell)
        for tenant, scope, name, at, *key, text in (await connection.execute(statement)).all()
    }
    await put(
        connection,
        seconds,
        {place: added((held[place], cell)) if place in held else cell for place, cell in cells.items()},
    )


async def put(connection: Connection, seconds: int, cells: Mapping[Place, Cell]) -> None:
    """Put these in the place of what is there."""
    await partitions.ensure(connection, seconds, {place.started_at for place in cells})
    statement = insert(connection, HISTORY[seconds])
    statement = statement.on_conflict_do_update(index_elements=_KEY, set_={"cell": statement.excluded.cell})
    values = [(*_columns(place), text_of(cell)) for place, cell in cells.items()]
    await execute_rows(connection, statement, (*_KEY, "cell"), values)


async def clear(
    connection: Connection, seconds: int, tenant: str, *, scopes: Collection[str], start: int, end: int
) -> None:
    """Remove the windows of a tenant, in these scopes, that begin in [start, end)."""
    table = HISTORY[seconds]
    chosen = sa.and_(table.c.tenant == tenant, table.c.scope.in_(list(scopes)))
    own = sa.and_(chosen, table.c.started_at >= start, table.c.started_at < end)
    await connection.execute(sa.delete(table).where(own))


async def read(connection: Connection, selector: Selector, spans: Iterable[Span]) -> list[Found]:
    """The cells of these windows."""
    found: list[Found] = []
    for span in spans:
        table = HISTORY[span.seconds]
        own = sa.and_(
            table.c.tenant == selector.tenant,
            table.c.scope == selector.scope,
            table.c.started_at >= span.start,
            table.c.started_at < span.end,
            *_chosen(table, selector),
        )
        statement = sa.select(
            table.c.name, table.c.started_at, table.c.model, table.c.version, table.c.place, table.c.cell
        ).where(own)
        for name, started_at, model, version, place, text in (await connection.execute(statement)).all():
            found.append(Found(name, started_at, span.seconds, Key(model, version, place), text))
    return found


def summed(found: Iterable[Found], by: Callable[[Found], K]) -> dict[K, Cell]:
    """The cells added up, by what `by` says of them. This computes: many cells want a thread."""
    parts: dict[K, list[Cell]] = {}
    for one in found:
        parts.setdefault(by(one), []).append(one.cell)
    return {group: added(cells) for group, cells in parts.items()}


async def trim(connection: Connection, *, now: float) -> None:
    """Forget what was kept long enough."""
    for seconds, kept in KEPT_S.items():
        await partitions.forget(connection, seconds, before=now - kept)


def _columns(place: Place) -> tuple[str | int, ...]:
    return (place.tenant, place.scope, place.name, place.started_at, *place.key)


def _chosen(table: sa.Table, selector: Selector) -> list[sa.ColumnElement[bool]]:
    chosen: list[sa.ColumnElement[bool]] = []
    if selector.names is not None:
        chosen.append(table.c.name.in_(list(selector.names)))
    if selector.model is not None:
        chosen.append(table.c.model == selector.model)
    if selector.versions is not None:
        chosen.append(table.c.version.in_(list(selector.versions)))
    if selector.place is not None:
        chosen.append(table.c.place == selector.place)
    return chosen
