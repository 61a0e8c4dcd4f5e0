"""Samples on disk until the cloud has them: a ring in SQLite, bounded in bytes.

Invariants:

* a sample is durable before it is sent (synchronous FULL);
* `seq` is never reused, not after a crash, a trim or a drop; a spool that had to be made anew has a new epoch;
* only an acknowledged watermark trims; what the bound pushes out is counted by reason, and the count travels upstream in the
  next sample, which carries those of samples that were dropped themselves.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from shared.io.durable import make_folder, sync_folder
from shared.protocol.errors import Transient, Unavailable
from shared.protocol.telemetry import Ack, Sample

FULL = "spool-full"
DAMAGED = "spool-damaged"
STORAGE = "storage"
FILL = 0.7
"""Share of the bound that samples may take; SQLite's pages and its log take the rest."""
PAGE = 4096
SPARE_PAGES = 32

_SCHEMA = """
CREATE TABLE IF NOT EXISTS samples (seq INTEGER PRIMARY KEY AUTOINCREMENT, size INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS dropped (reason TEXT PRIMARY KEY, count INTEGER NOT NULL);
"""


class Spool:
    """Owner of the file. Its methods block on the disk: call them off the event loop, from any thread."""

    def __init__(self, path: Path, *, most_bytes: int, new_epoch: Callable[[], int]) -> None:
        """Open or make the spool at `path`; one that cannot be read is put aside, counted, and made anew.

        `new_epoch` gives a number never given before, durably.
        """
        self._path = path
        self._most = int(most_bytes * FILL)
        self._lock = threading.Lock()
        self._unsaid: dict[str, int] = {}
        make_folder(path.parent)
        try:
            self._db, self.epoch = self._opened(most_bytes, new_epoch)
        except sqlite3.DatabaseError:
            for suffix in ("-wal", "-shm", ""):
                file = path.with_name(path.name + suffix)
                if file.exists():
                    file.replace(path.with_name(f"{path.name}.damaged{suffix}"))
            self._db, self.epoch = self._opened(most_bytes, new_epoch)
            self._unsaid[DAMAGED] = 1

    def append(self, make: Callable[[int, dict[str, int]], Sample]) -> tuple[Sample, dict[str, int]]:
        """Make the next sample from its `seq` and what was dropped since the last, durably; and what this push dropped.

        Raises:
            Transient: the disk does not take it; it is counted as dropped, and the next one says so.

        """
        try:
            with self._transaction():
                appended = self._append(make)
        except Transient:
            self._unsaid[STORAGE] = self._unsaid.get(STORAGE, 0) + 1
            raise
        self._unsaid = {}
        return appended

    def oldest(self, *, most: int, most_bytes: int) -> tuple[Sample, ...]:
        """The oldest samples, in order: at most `most` and, beyond the first, `most_bytes` together.

        Raises:
            Transient: the disk cannot be read.

        """
        taken: list[Sample] = []
        size = 0
        with self._transaction():
            rows = self._db.execute("SELECT seq, size, body FROM samples ORDER BY seq LIMIT ?", (most,)).fetchall()
            for seq, row_size, body in rows:
                size += row_size
                if taken and size > most_bytes:
                    break
                try:
                    taken.append(msgspec.json.decode(body, type=Sample))
                except msgspec.DecodeError:
                    self._db.execute("DELETE FROM samples WHERE seq = ?", (seq,))
                    self._count_dropped({DAMAGED: 1})
        return tuple(taken)

    def trim(self, ack: Ack) -> int:
        """Forget what the cloud has; how many samples that were. One of another epoch is about another spool.

        Raises:
            Transient: the disk does not take it; they will be sent, and acknowledged, again.

        """
        if ack.epoch != self.epoch:
            return 0
        with self._transaction():
            return self._db.execute("DELETE FROM samples WHERE seq <= ?", (ack.seq,)).rowcount

    def count(self) -> int:
        """How many samples wait."""
        with self._transaction():
            return int(self._db.execute("SELECT count(*) FROM samples").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _opened(self, most_bytes: int, new_epoch: Callable[[], int]) -> tuple[sqlite3.Connection, int]:
        db = sqlite3.connect(self._path, check_same_thread=False, isolation_level="IMMEDIATE")
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
            row = db.execute("SELECT value FROM facts WHERE name = 'epoch'").fetchone()
            epoch = int(row[0]) if row is not None else new_epoch()
            if row is None:
                db.execute("INSERT INTO facts VALUES ('epoch', ?)", (epoch,))
            db.commit()
            # The file's own entry must survive as well.
            sync_folder(self._path.parent)
        except BaseException:
            db.close()
            raise
        return db, epoch

    def _append(self, make: Callable[[int, dict[str, int]], Sample]) -> tuple[Sample, dict[str, int]]:
        cursor = self._db.execute("INSERT INTO samples (size, body) VALUES (0, x'')")
        seq = int(cursor.lastrowid or 0)
        dropped = dict(self._db.execute("SELECT reason, count FROM dropped").fetchall())
        for reason, count in self._unsaid.items():
            dropped[reason] = dropped.get(reason, 0) + count
        sample = make(seq, dropped)
        body = msgspec.json.encode(sample)
        self._db.execute("UPDATE samples SET size = ?, body = ? WHERE seq = ?", (len(body), body, seq))
        self._db.execute("DELETE FROM dropped")
        pushed = self._push_out(newest=seq)
        return sample, pushed

    def _push_out(self, *, newest: int) -> dict[str, int]:
        """Drop the oldest until the rest fits; the newest stays whatever it weighs."""
        total = int(self._db.execute("SELECT sum(size) FROM samples").fetchone()[0])
        lost: dict[str, int] = {}
        if total > self._most:
            rows = self._db.execute("SELECT seq, size, body FROM samples WHERE seq < ? ORDER BY seq", (newest,))
            last = None
            for seq, size, body in rows:
                if total <= self._most:
                    break
                total -= size
                last = seq
                lost[FULL] = lost.get(FULL, 0) + 1
                for reason, count in msgspec.json.decode(body, type=Sample).dropped.items():
                    lost[reason] = lost.get(reason, 0) + count
            if last is not None:
                self._db.execute("DELETE FROM samples WHERE seq <= ?", (last,))
            self._count_dropped(lost)
        return lost

    def _count_dropped(self, lost: dict[str, int]) -> None:
        self._db.executemany(
            "INSERT INTO dropped VALUES (?, ?) ON CONFLICT (reason) DO UPDATE SET count = count + excluded.count",
            list(lost.items()),
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Alone and whole: committed durably at the end, or not at all."""
        with self._lock:
            try:
                with self._db:
                    yield
            except sqlite3.Error as error:
                raise Transient(f"the spool cannot be used: {error}", why=Unavailable.STORAGE) from error


def _check(db: sqlite3.Connection) -> None:
    verdict = db.execute("PRAGMA quick_check").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
