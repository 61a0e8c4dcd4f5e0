"""The registry's database: one engine per process, two kinds of transaction, and migrations.

Invariants:

* SQLite runs in WAL with `synchronous = FULL`, so a commit that returned survives a power cut; foreign keys are enforced;
* a write transaction starts with BEGIN IMMEDIATE: it waits for the other writers before it reads, and so never fails half-way
  because what it read is stale;
* a read transaction is one snapshot on both databases;
* a database that is busy, full or gone is `Transient`; every other database error is a bug.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from shared.io.durable import folder_of
from shared.protocol.errors import Corrupt, Transient, Unavailable

Connection = AsyncConnection
"""What every function of the store takes first."""

BUSY_S = 10.0
"""Seconds a transaction waits for another's lock."""
_WRITE = "tideline_write"
_BUSY = ("locked", "busy")
_FULL = ("disk is full", "disk I/O error", "readonly database", "unable to open")
_RETRY_STATES = ("40001", "40P01", "55P03", "57P01", "57P02", "57P03", "53300")
"""PostgreSQL: serialization failure, deadlock, lock not available, shutdown (three), too many connections."""


def open_database(url: str) -> AsyncEngine:
    """An engine for `url` (`sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`); the caller disposes of it."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_async_engine(parsed, pool_pre_ping=True)
    _make_parent(parsed)
    engine = create_async_engine(parsed, connect_args={"timeout": BUSY_S})
    sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    sa.event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


@asynccontextmanager
async def write(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """One write transaction: committed durably when the block ends, rolled back when it raises.

    Raises:
        Transient: the database is busy, full or gone; nothing was written.

    """
    with _retyped():
        async with engine.execution_options(**{_WRITE: True}).begin() as connection:
            yield connection


@asynccontextmanager
async def read(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """One read transaction over one snapshot.

    Raises:
        Transient: the database is busy or gone.

    """
    options: dict[str, object] = {}
    if engine.dialect.name == "postgresql":
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with _retyped():
        async with engine.execution_options(**options).begin() as connection:
            yield connection


async def ping(engine: AsyncEngine) -> None:
    """Check that the database answers and has the registry's tables.

    Raises:
        Transient: it does not.

    """
    try:
        async with read(engine) as connection:
            await connection.execute(sa.text("SELECT 1 FROM tenants LIMIT 1"))
    except DBAPIError as error:
        raise Transient("the database is not migrated", why=Unavailable.NOT_READY) from error


async def migrate(url: str, *, revision: str = "head") -> None:
    """Bring the database at `url` to `revision`; harmless when it is there already.

    Alembic is synchronous and starts an event loop of its own, so it runs in a thread.
    """
    _make_parent(sa.make_url(url))
    with _retyped():
        await asyncio.to_thread(command.upgrade, alembic_config(url), revision)


async def unmigrate(url: str, *, revision: str = "base") -> None:
    """Take the database back to `revision`."""
    await asyncio.to_thread(command.downgrade, alembic_config(url), revision)


def alembic_config(url: str) -> Config:
    """Alembic's configuration, without a file: the scripts are found by `migrations_folder`."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def migrations_folder() -> Path:
    """Where the migrations are: inside an installed wheel, or beside the packages in a checkout.

    Raises:
        Corrupt: in neither place.

    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise Corrupt("the installation lacks its database migrations")


def _make_parent(url: sa.URL) -> None:
    if url.get_backend_name() == "sqlite" and url.database:
        folder_of("database_url", Path(url.database).absolute().parent)


def _prepare_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    # The driver's own BEGIN comes too late (before the first change only); transactions are begun below.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"busy_timeout = {BUSY_S * 1000:.0f}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    is_write = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN DEFERRED")


@contextmanager
def _retyped() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        why = _reason(error)
        if why is None:
            raise
        raise Transient(f"the database cannot do this now: {error.orig}", why=why, retry_after=1.0) from error
    except ConnectionError as error:
        # asyncpg lets the socket's own error through while it connects.
        raise Transient("the database is not reachable", why=Unavailable.UNREACHABLE, retry_after=1.0) from error


def _reason(error: DBAPIError) -> Unavailable | None:
    text = str(error.orig)
    if error.connection_invalidated:
        return Unavailable.UNREACHABLE
    if getattr(error.orig, "sqlstate", None) in _RETRY_STATES:
        return Unavailable.NOT_READY
    if any(word in text for word in _BUSY):
        return Unavailable.NOT_READY
    if any(word in text for word in _FULL):
        return Unavailable.STORAGE
    return None
