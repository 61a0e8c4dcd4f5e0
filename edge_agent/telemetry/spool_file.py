"""The spool's file: made, opened soundly, brought to today's form, or put aside."""

import sqlite3
from pathlib import Path

from shared.io.durable import make_folder, sync_folder

PAGE = 4096
SPARE_PAGES = 32

_SCHEMA = """
CREATE TABLE IF NOT EXISTS samples (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, size INTEGER NOT NULL, body BLOB NOT NULL,
  epoch INTEGER NOT NULL DEFAULT 0, rank INTEGER NOT NULL DEFAULT 0, plain INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS dropped (reason TEXT PRIMARY KEY, count INTEGER NOT NULL);
"""
_INDEX = "CREATE INDEX IF NOT EXISTS by_worth ON samples (rank, seq, size)"


def open_spool(path: Path, *, most_bytes: int) -> sqlite3.Connection:
    """The spool at `path`, sound and durable; nothing is written where it is there already, so that a full disk does not matter.

    Raises:
        sqlite3.OperationalError: the disk is full or failing.
        sqlite3.DatabaseError: it is no sound database.

    """
    make_folder(path.parent)
    db = sqlite3.connect(path, check_same_thread=False, isolation_level="IMMEDIATE")
    try:
        for pragma in (
            f"page_size={PAGE}",
            "journal_mode=WAL",
            "synchronous=FULL",
            f"max_page_count={most_bytes // PAGE + SPARE_PAGES}",
            # The log stays a small part of the bound.
            f"wal_autocheckpoint={max(4, min(1000, most_bytes // PAGE // 10))}",
        ):
            db.execute(f"PRAGMA {pragma}")
        db.executescript(_SCHEMA)
        _check(db)
        _bring_forward(db)
        db.execute(_INDEX)
        db.commit()
        # The file's own entry must survive as well.
        sync_folder(path.parent)
    except BaseException:
        db.close()
        raise
    return db


def put_aside(path: Path) -> None:
    """Move a damaged spool out of the way, for people to look at."""
    for suffix in ("-wal", "-shm", ""):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.replace(path.with_name(f"{path.name}.damaged{suffix}"))


def _check(db: sqlite3.Connection) -> None:
    verdict = db.execute("PRAGMA quick_check").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def _bring_forward(db: sqlite3.Connection) -> None:
    """A spool of the first form had one epoch for good, and no rank: its samples keep that epoch."""
    columns = {row[1] for row in db.execute("PRAGMA table_info(samples)")}
    if "epoch" in columns:
        return
    row = db.execute("SELECT value FROM facts WHERE name = 'epoch'").fetchone()
    before = 0 if row is None else int(row[0])
    db.execute(f"ALTER TABLE samples ADD COLUMN epoch INTEGER NOT NULL DEFAULT {before}")
    db.execute("ALTER TABLE samples ADD COLUMN rank INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE samples ADD COLUMN plain INTEGER NOT NULL DEFAULT 0")
    db.execute("UPDATE samples SET plain = size")
