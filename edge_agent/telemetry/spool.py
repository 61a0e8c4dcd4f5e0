"""Samples on disk until the cloud has them: a ring in SQLite, bounded in bytes.

Invariants:

* a sample is durable before it is sent (synchronous FULL);
* each opening has an epoch of its own, durable before anything is written under it, and `seq` rises over all epochs: no pair is
  used twice, not after a crash, a trim, a drop, nor where the disk was put back to an earlier state;
* only an acknowledged watermark trims; what the bound pushes out was never sent (`decide.retention`);
* every loss is counted by reason, and the counts travel in the next sample, which takes over those of samples that were dropped.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from edge_agent.decide.retention import Held, Rank, Reason, rank_of, to_drop
from edge_agent.telemetry.ledger import Ledger
from edge_agent.telemetry.spool_file import open_spool, put_aside
from shared.io.deflate import deflated, inflated
from shared.protocol.errors import Refused, Transient, Unavailable
from shared.protocol.telemetry import Ack, Batch, Sample

FILL = 0.7
"""Share of the bound that samples may take; SQLite's pages and its log take the rest."""
IN_DOUBT = 4
"""A batch, which cannot be dropped while it is under way, takes at most this part of what samples may."""
LARGEST = 16 * 1024 * 1024
"""Bytes of one sample, unpacked."""

Make = Callable[[int, dict[str, int]], Sample]


class Spool:
    """Owner of the file. Its methods block on the disk: call them off the event loop, from any thread."""

    def __init__(self, path: Path, *, most_bytes: int, new_epoch: Callable[[], int]) -> None:
        """Open or make the spool at `path`; one that cannot be read is put aside, counted, and made anew.

        `new_epoch` gives a number above all it gave before, durably.

        Raises:
            Transient: the disk is full or failing.

        """
        self._most = int(most_bytes * FILL)
        self._lock = threading.Lock()
        self.epoch = new_epoch()
        try:
            self._db, damaged = _opened(path, most_bytes)
            self._ledger = Ledger(path.with_name(f"{path.name}.lost"))
        except (OSError, sqlite3.OperationalError) as error:
            raise Transient(f"the spool cannot be opened: {error}", why=Unavailable.STORAGE) from error
        if damaged or not self._ledger.sound:
            # What one of the two said before, nobody can tell any more.
            with self._transaction():
                self._set("told-storage", self._ledger.storage)
                self._set("told-crashes", self._ledger.crashes)
                self._count_dropped({Reason.DAMAGED: 1} if damaged else {})

    def append(self, make: Make) -> tuple[Sample, dict[str, int]]:
        """Make the next sample from its `seq` and what was dropped since the last, durably; and what this push dropped.

        Raises:
            Transient: the disk does not take it; it is counted as dropped, and the next one says so.

        """
        try:
            with self._transaction():
                return self._append(make)
        except Transient:
            with self._lock:
                self._ledger.not_taken()
            raise

    def oldest(self, *, most: int, most_bytes: int) -> Batch | None:
        """The oldest samples of one epoch, in order: at most `most` and, beyond the first, `most_bytes` of JSON; None for none.

        They are in doubt from now on, and not dropped until they are acknowledged.

        Raises:
            Transient: the disk cannot be read or written.

        """
        taken: list[Sample] = []
        epoch = plain = size = 0
        with self._transaction():
            rows = self._db.execute(
                "SELECT seq, epoch, plain, size, body FROM samples ORDER BY seq LIMIT ?", (most,)
            ).fetchall()
            for seq, row_epoch, row_plain, row_size, body in rows:
                plain, size = plain + row_plain, size + row_size
                if taken and (row_epoch != epoch or plain > most_bytes or size > self._most // IN_DOUBT):
                    break
                try:
                    taken.append(_sample_in(body))
                    epoch = row_epoch
                except (msgspec.DecodeError, Refused):
                    self._db.execute("DELETE FROM samples WHERE seq = ?", (seq,))
                    self._count_dropped({Reason.DAMAGED: 1})
            if taken and taken[-1].seq > self._fact("sent"):
                self._set("sent", taken[-1].seq)
        return Batch(epoch=epoch, samples=tuple(taken)) if taken else None

    def trim(self, ack: Ack) -> int:
        """Forget what the cloud has of the watermark's epoch; how many samples that were.

        Raises:
            Transient: the disk does not take it; they will be sent, and acknowledged, again.

        """
        with self._transaction():
            own = (ack.epoch, ack.seq)
            return self._db.execute("DELETE FROM samples WHERE epoch = ? AND seq <= ?", own).rowcount

    def count(self) -> int:
        """How many samples wait."""
        with self._transaction():
            return int(self._db.execute("SELECT count(*) FROM samples").fetchone()[0])

    def close(self) -> None:
        """Close the file: what the next opening finds is not a crash."""
        with self._lock:
            self._db.close()
            self._ledger.goodbye()

    def _append(self, make: Make) -> tuple[Sample, dict[str, int]]:
        cursor = self._db.execute(
            "INSERT INTO samples (epoch, rank, size, plain, body) VALUES (?, 0, 0, 0, x'')", (self.epoch,)
        )
        seq = int(cursor.lastrowid or 0)
        dropped = dict(self._db.execute("SELECT reason, count FROM dropped").fetchall())
        ledger = (
            (Reason.STORAGE, "told-storage", self._ledger.storage),
            (Reason.CRASH, "told-crashes", self._ledger.crashes),
        )
        for reason, fact, counted in ledger:
            if untold := counted - self._fact(fact):
                dropped[reason.value] = dropped.get(reason.value, 0) + untold
                self._set(fact, counted)
        sample = make(seq, dropped)
        plain = msgspec.json.encode(sample)
        body = deflated(plain)
        self._db.execute(
            "UPDATE samples SET rank = ?, size = ?, plain = ?, body = ? WHERE seq = ?",
            (int(rank_of(sample)), len(body), len(plain), body, seq),
        )
        self._db.execute("DELETE FROM dropped")
        return sample, self._push_out(newest=seq)

    def _push_out(self, *, newest: int) -> dict[str, int]:
        """Drop what does not fit; what that loses, with what those samples had to say of others."""
        total = int(self._db.execute("SELECT sum(size) FROM samples").fetchone()[0])
        rows = self._db.execute("SELECT rank, seq, size FROM samples ORDER BY rank, seq")
        held = (Held(rank=Rank(rank), seq=seq, size=size) for rank, seq, size in rows)
        losses = to_drop(held, total=total, most=self._most, sent=self._fact("sent"), newest=newest)
        rows.close()
        lost: dict[str, int] = {}
        for loss in losses:
            body = self._db.execute("DELETE FROM samples WHERE seq = ? RETURNING body", (loss.seq,)).fetchone()[0]
            lost[loss.reason.value] = lost.get(loss.reason.value, 0) + 1
            with contextlib.suppress(msgspec.DecodeError, Refused):
                for reason, count in _sample_in(body).dropped.items():
                    lost[reason] = lost.get(reason, 0) + count
        self._count_dropped(lost)
        return lost

    def _count_dropped(self, lost: dict[str, int] | dict[Reason, int]) -> None:
        self._db.executemany(
            "INSERT INTO dropped VALUES (?, ?) ON CONFLICT (reason) DO UPDATE SET count = count + excluded.count",
            [(str(reason), count) for reason, count in lost.items()],
        )

    def _fact(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def _set(self, name: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Alone and whole: committed durably at the end, or not at all."""
        with self._lock:
            try:
                with self._db:
                    yield
            except sqlite3.Error as error:
                raise Transient(f"the spool cannot be used: {error}", why=Unavailable.STORAGE) from error


def _opened(path: Path, most_bytes: int) -> tuple[sqlite3.Connection, bool]:
    """The spool's file, and whether the one before it was damaged and put aside."""
    try:
        return open_spool(path, most_bytes=most_bytes), False
    except sqlite3.OperationalError:
        raise  # the disk, not the file
    except sqlite3.DatabaseError:
        put_aside(path)
        return open_spool(path, most_bytes=most_bytes), True


def _sample_in(body: bytes) -> Sample:
    return msgspec.json.decode(inflated(body, most=LARGEST), type=Sample)
