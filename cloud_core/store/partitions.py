"""History's partitions on PostgreSQL: one per stretch of time, made before the first row of it, dropped whole when it is old.

SQLite has none: there the same calls delete rows.
"""

import sqlalchemy as sa

from cloud_core.store.database import Connection
from cloud_core.store.telemetry_tables import HISTORY

WIDTH_S = {10: 86400, 60: 7 * 86400, 3600: 60 * 86400}
"""How much time one partition of each resolution has."""


async def ensure(connection: Connection, seconds: int, starts: set[int]) -> None:
    """Make sure that rows of windows beginning at `starts` have a place."""
    if connection.dialect.name != "postgresql":
        return
    width = WIDTH_S[seconds]
    numbers = {start // width for start in starts}
    held = await _numbers(connection, seconds)
    for number in sorted(numbers - held):
        name, first = f"history_{seconds}_p{number}", number * width
        await connection.execute(
            sa.text(
                f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF history_{seconds} FOR VALUES FROM ({first}) TO ({first + width})"
            )
        )


async def forget(connection: Connection, seconds: int, *, before: float) -> None:
    """Drop what began before `before`: whole partitions first, then rows."""
    if connection.dialect.name == "postgresql":
        for number in sorted(await _numbers(connection, seconds)):
            if (number + 1) * WIDTH_S[seconds] <= before:
                await connection.execute(sa.text(f"DROP TABLE history_{seconds}_p{number}"))
    table = HISTORY[seconds]
    await connection.execute(sa.delete(table).where(table.c.started_at < int(before)))


async def _numbers(connection: Connection, seconds: int) -> set[int]:
    prefix = f"history_{seconds}_p"
    statement = sa.text(
        "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
        "WHERE inhparent = to_regclass(:parent)"
    )
    names = (await connection.execute(statement, {"parent": f"history_{seconds}"})).scalars()
    return {int(name.removeprefix(prefix)) for name in names if name.startswith(prefix)}
