"""Opening the agent's SQLite database so that no power cut, no rot and no older agent can harm it.

WAL with `synchronous=FULL`: with NORMAL, a power cut loses whole commits. A file that is no sound database is moved aside and
a new one begun, so that rot costs the record and never the service; a newer schema is refused untouched.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shared.io.durable import make_folder, sync_folder
from shared.protocol.errors import Corrupt, Refusal, Refused, Transient, Unavailable

_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
_SCHEMA = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"


class Opened(NamedTuple):
    """A sound database; `aside` is where a broken one was moved to, if there was one."""

    connection: sqlite3.Connection
    aside: Path | None


def open_sound(path: Path, *, schema: int, tables: str, field: str) -> Opened:
    """The database at `path`, made where it is absent, in autocommit mode and usable from any one thread at a time.

    Args:
        path: its file.
        schema: its `user_version`; there are no migrations, so it only rises with an answer to what becomes of old files.
        tables: the statements that make a new one.
        field: the setting that names its folder, for refusals.

    Raises:
        Refused: written by a newer agent.
        Transient: the disk is full or failing.

    """
    make_folder(path.parent)
    try:
        return Opened(_connected(path, schema, tables, field), None)
    except Corrupt:
        aside = _moved_aside(path)
        return Opened(_connected(path, schema, tables, field), aside)


@contextlib.contextmanager
def sound(path: Path) -> Iterator[None]:
    """Turn SQLite's complaints about file and disk into the taxonomy's; any other is a bug and stays what it is."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _BROKEN:
            raise Corrupt(f"{path}: {error}", code="state-corrupt") from error
        if code in _PASSING:
            raise Transient(f"{path}: {error}", why=Unavailable.STORAGE) from error
        raise


def _connected(path: Path, schema: int, tables: str, field: str) -> sqlite3.Connection:
    with sound(path):
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            _prepare(db, path, schema, tables, field)
        except sqlite3.OperationalError as error:
            db.close()
            if error.sqlite_errorcode & 0xFF in _PASSING | _BROKEN:
                raise
            # Our own statements are sound: what they complain of is the file.
            raise Corrupt(f"{path}: {error}", code="state-corrupt") from error
        except BaseException:
            db.close()
            raise
    sync_folder(path.parent)
    return db


def _prepare(db: sqlite3.Connection, path: Path, schema: int, tables: str, field: str) -> None:
    # Before anything is written: an older agent must not touch a newer one's record.
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > schema:
        raise Refused(
            "the state was written by a newer agent",
            kind=Refusal.UNSUPPORTED,
            field=field,
            value=f"{path}, schema {version}",
            allowed=f"schema {schema} or older",
        )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    if version == 0:
        _make(db, schema, tables)
        # The folder may have been made by a run that was killed before it made it durable.
        with contextlib.suppress(PermissionError):
            sync_folder(path.parent.parent)
    verdict = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if verdict != "ok":
        raise Corrupt(f"{path}: {verdict}", code="state-corrupt")
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as sample:
        _make(sample, schema, tables)
        if db.execute(_SCHEMA).fetchall() != sample.execute(_SCHEMA).fetchall():
            raise Corrupt(f"{path}: its tables are not those of schema {schema}", code="state-corrupt")


def _make(db: sqlite3.Connection, schema: int, tables: str) -> None:
    with db:
        db.execute("BEGIN IMMEDIATE")
        statement = ""
        # Statement by statement: executescript would commit the transaction it is called in.
        for line in tables.splitlines():
            statement += line + "\n"
            if sqlite3.complete_statement(statement):
                db.execute(statement)
                statement = ""
        db.execute(f"PRAGMA user_version = {schema:d}")


def _moved_aside(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(target.with_name(target.name + suffix))
    sync_folder(path.parent)
    return target
