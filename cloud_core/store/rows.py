"""Between rows and frozen values; and the one statement that SQLite and PostgreSQL spell alike only in part."""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from cloud_core.store.database import Connection

V = TypeVar("V", bound=msgspec.Struct)


async def first(connection: Connection, statement: sa.sql.Executable, into: type[V]) -> V | None:
    """The first row as `into` (columns are its field names), or None."""
    row = (await connection.execute(statement)).mappings().first()
    return None if row is None else _value(row, into)


async def every(connection: Connection, statement: sa.sql.Executable, into: type[V]) -> list[V]:
    """All rows as `into`."""
    rows = (await connection.execute(statement)).mappings().all()
    return [_value(row, into) for row in rows]


async def changed(connection: Connection, statement: sa.sql.Executable) -> int:
    """How many rows the statement touched."""
    result = await connection.execute(statement, execution_options={"preserve_rowcount": True})
    return int(result.rowcount)


def columns(table: sa.Table, into: type[msgspec.Struct]) -> Sequence[sa.Column[Any]]:
    """The columns of `table` that `into` has fields for."""
    return [table.c[name] for name in into.__struct_fields__ if name in table.c]


def insert(connection: Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can say ON CONFLICT."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def text_of(value: object) -> str:
    """JSON text for a document column."""
    return msgspec.json.encode(value).decode()


def _value(row: sa.RowMapping, into: type[V]) -> V:
    return msgspec.convert({name: row[name] for name in into.__struct_fields__}, into)
