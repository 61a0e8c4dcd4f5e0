"""Many rows in one statement, at the cost of the rows: what SQLAlchemy does for each value of each row is left out."""

from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.compiler import SQLCompiler

from cloud_core.store.database import Connection

Rows = Sequence[Sequence[object]]


def given(connection: Connection, columns: Mapping[str, sa.types.TypeEngine[object]], rows: Rows) -> sa.FromClause:
    """These rows as something to select from and to join, in a fixed number of parameters; `columns`: names and types, in order."""
    if connection.dialect.name == "postgresql":
        lists = list(zip(*rows, strict=True)) or [()] * len(columns)
        arrays = [
            sa.bindparam(None, list(values), type_=ARRAY(type_))
            for values, type_ in zip(lists, columns.values(), strict=True)
        ]
        named = [sa.column(name, type_) for name, type_ in columns.items()]
        return sa.func.unnest(*arrays).table_valued(*named, name="given").render_derived()
    each = sa.func.json_each(sa.bindparam(None, msgspec.json.encode(rows).decode(), type_=sa.Text)).table_valued(
        "value"
    )
    parts = [
        sa.type_coerce(sa.func.json_extract(each.c.value, sa.literal_column(f"'$[{n}]'")), type_).label(name)
        for n, (name, type_) in enumerate(columns.items())
    ]
    return sa.select(*parts).select_from(each).subquery("given")


async def execute_rows(
    connection: Connection, statement: sa.Insert | sa.Update, columns: Sequence[str], rows: Rows
) -> None:
    """Run `statement` once for each row; `columns` names the bound parameters in the order of the rows' values.

    The values go to the driver as they are: they must be what the columns hold, and the statement must have no other parameters.
    """
    if not rows:
        return
    compiled = statement.compile(dialect=connection.dialect, column_keys=list(columns))
    if not isinstance(compiled, SQLCompiler) or compiled.positiontup is None:
        raise TypeError("a driver with positional parameters is needed")
    order = [list(columns).index(name) for name in compiled.positiontup]
    values = [tuple(row[n] for n in order) for row in rows]
    await connection.exec_driver_sql(str(compiled), values)
