"""Facts of the whole control plane: its epoch, and the epoch of its connection to the broker."""

import sqlalchemy as sa

from cloud_core.store import tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import insert

CONTROL_EPOCH = "control_epoch"
LINK_EPOCH = "link_epoch"
_T = tables.control


async def control_epoch(connection: Connection) -> int:
    """The epoch that orders generations before their number; 1 until somebody raises it. Needs a write transaction."""
    await connection.execute(insert(connection, _T).values(key=CONTROL_EPOCH, value="1").on_conflict_do_nothing())
    return await _value(connection, CONTROL_EPOCH)


async def raise_control_epoch(connection: Connection, *, above: int = 0) -> int:
    """The next control epoch, above the present one and `above`: after the database was restored from a backup."""
    epoch = max(await control_epoch(connection), above) + 1
    await connection.execute(sa.update(_T).where(_T.c.key == CONTROL_EPOCH).values(value=str(epoch)))
    return epoch


async def next_link_epoch(connection: Connection) -> int:
    """A link epoch nobody had before: for each new connection of the leading loops."""
    await connection.execute(insert(connection, _T).values(key=LINK_EPOCH, value="0").on_conflict_do_nothing())
    epoch = await _value(connection, LINK_EPOCH) + 1
    await connection.execute(sa.update(_T).where(_T.c.key == LINK_EPOCH).values(value=str(epoch)))
    return epoch


async def cursor(connection: Connection, name: str) -> int:
    """How far `name` has come; nobody else moves it until this transaction ends. Needs a write transaction."""
    key = f"rolled-up/{name}"
    await connection.execute(insert(connection, _T).values(key=key, value="0").on_conflict_do_nothing())
    return await _value(connection, key)


async def come_so_far(connection: Connection, name: str) -> int:
    """How far `name` had come, whoever moves it now."""
    statement = sa.select(_T.c.value).where(_T.c.key == f"rolled-up/{name}")
    return int((await connection.execute(statement)).scalar_one_or_none() or 0)


async def move_cursor(connection: Connection, name: str, to: int) -> None:
    """`name` has come so far."""
    await connection.execute(sa.update(_T).where(_T.c.key == f"rolled-up/{name}").values(value=str(to)))


async def _value(connection: Connection, key: str) -> int:
    # Locked, so that two processes on PostgreSQL never read the same number before raising it.
    statement = sa.select(_T.c.value).where(_T.c.key == key).with_for_update()
    return int((await connection.execute(statement)).scalar_one())
