"""The agent's crash-safe record, in SQLite: what it accepted, what it applied, what it attempts, what failed.

Invariants:

* every write is one transaction, durable before the call returns;
* the floor, the highest order ever accepted, never falls, whatever is removed: the database itself refuses it;
* counters (epochs, sequence numbers) only rise;
* a file that is no longer a sound database is moved aside (`recovered` says where) and the agent starts with an empty
  record and asks the cloud again. Then the floor starts from nothing too: until the next generation is accepted, an old
  one with a good signature would be. Counters start from `first`, which callers take from the clock, so that they still rise.

All methods block, for as long as an fsync takes: on an event loop they are called with `asyncio.to_thread`, so that a slow
disk never delays an answer. One lock serialises them.
"""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import msgspec

from edge_agent.control.database import open_sound, sound
from edge_agent.decide.blame import Failure, trial
from shared.protocol.desired import Generation, Order, SignedGeneration, generation_in

FILE = "agent.db"
SCHEMA = 1
LARGEST = 2**63 - 1
"""Epochs and numbers are 64-bit."""

_TABLES = """
CREATE TABLE generations (
  slot TEXT PRIMARY KEY CHECK (slot IN ('accepted', 'applied', 'previous')),
  key_id TEXT NOT NULL, signature TEXT NOT NULL, payload TEXT NOT NULL) STRICT;
CREATE TABLE floors (
  tenant TEXT NOT NULL, device TEXT NOT NULL, epoch INTEGER NOT NULL, number INTEGER NOT NULL,
  PRIMARY KEY (tenant, device)) STRICT;
CREATE TRIGGER floor_never_falls BEFORE UPDATE ON floors
  WHEN (NEW.epoch, NEW.number) < (OLD.epoch, OLD.number) OR (NEW.tenant, NEW.device) <> (OLD.tenant, OLD.device)
  BEGIN SELECT RAISE(ABORT, 'the floor never falls'); END;
CREATE TRIGGER floor_stays BEFORE DELETE ON floors
  BEGIN SELECT RAISE(ABORT, 'the floor is never removed'); END;
CREATE TABLE intent (
  one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL, number INTEGER NOT NULL,
  step TEXT NOT NULL, subject TEXT NOT NULL, attempts INTEGER NOT NULL) STRICT;
CREATE TABLE failures (
  subject TEXT PRIMARY KEY, failed INTEGER NOT NULL, crashed INTEGER NOT NULL, error TEXT NOT NULL) STRICT;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""
_FLOOR = """INSERT INTO floors VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET
  epoch = excluded.epoch, number = excluded.number
  WHERE (excluded.epoch, excluded.number) > (floors.epoch, floors.number)"""
_INTENT = """INSERT INTO intent VALUES (1, ?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET
  attempts = CASE WHEN (epoch, number, step, subject) =
                       (excluded.epoch, excluded.number, excluded.step, excluded.subject) THEN attempts + 1 ELSE 1 END,
  epoch = excluded.epoch, number = excluded.number, step = excluded.step, subject = excluded.subject RETURNING attempts"""
_FAILURE = """INSERT INTO failures VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET
  failed = failed + excluded.failed, crashed = crashed + excluded.crashed, error = excluded.error"""
_COUNT = """INSERT INTO counters VALUES (?, ?) ON CONFLICT DO UPDATE SET
  value = max(counters.value + 1, excluded.value) RETURNING value"""

_READS = frozenset({"signed", "floor", "intent", "failures", "on_probation"})

P = ParamSpec("P")
R = TypeVar("R")


class Slot(StrEnum):
    """Which generation a row is: the newest trusted one, the one that answers, and the one that did before it."""

    ACCEPTED = "accepted"
    APPLIED = "applied"
    PREVIOUS = "previous"


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """The step that is being attempted for `order`, written before it starts.

    `subject` is what its failure would speak against; `attempts` counts this one too.
    """

    order: Order
    step: str
    subject: str
    attempts: int


def _transaction(method: Callable[Concatenate["AgentState", P], R]) -> Callable[Concatenate["AgentState", P], R]:
    """Run a method alone, in one transaction that is durable once it returns; one that reads asks nothing of the disk's room."""

    def run(self: "AgentState", /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock, sound(self.path), self._db:
            self._db.execute("BEGIN" if method.__name__ in _READS else "BEGIN IMMEDIATE")
            return method(self, *args, **kwargs)

    run.__doc__ = method.__doc__
    return run


class AgentState:
    """The record. One process owns its folder (`shared.io.durable.FolderLock`)."""

    def __init__(self, folder: Path, *, first: int = 0) -> None:
        """Open or make the record.

        Args:
            folder: the agent's state folder.
            first: where counters start in a new record; Unix seconds, so that they rise even when a record was lost.

        Raises:
            Refused: written by a newer agent.
            Transient: the disk is full or failing.

        """
        self.path = folder / FILE
        self._first = first
        self._lock = threading.Lock()
        opened = open_sound(self.path, schema=SCHEMA, tables=_TABLES, field="state_dir")
        self._db = opened.connection
        self.recovered: Path | None = opened.aside
        """Where a broken record was moved to, for the log; None when it was sound."""

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._db.close()

    @_transaction
    def accept(self, signed: SignedGeneration) -> None:
        """Record an already verified generation as the newest accepted one and raise the floor to it.

        A new order is a new chance for bytes that could not be got; what failed in running, and the probation of the generation
        that answers, stay.
        """
        generation = generation_in(signed)
        self._put(Slot.ACCEPTED, signed)
        self._db.execute(_FLOOR, (generation.tenant, generation.device, *generation.order))
        kept = self._probation()[0]
        self._db.execute("DELETE FROM failures WHERE substr(subject, 65, 1) <> '-' AND subject <> ?", (kept,))
        self._db.execute("DELETE FROM intent")

    @_transaction
    def apply(self, signed: SignedGeneration, suspects: Sequence[str] = ()) -> None:
        """Record that from now on this generation answers; another one that did becomes `previous`.

        Args:
            signed: the generation.
            suspects: what its failure in the time to come will speak against: it is on probation then, until `commit` or
                `roll_back`. Without any it is committed, and what its models failed with on the way is forgotten.

        One that is still on probation never becomes `previous`: what was before it stays what can be gone back to.

        """
        generation = generation_in(signed)
        before, (unproved, _) = _row(self._db, Slot.APPLIED), self._probation()
        if before is not None and before.payload != signed.payload and not unproved:
            self._put(Slot.PREVIOUS, before)
        self._put(Slot.APPLIED, signed)
        about = trial(generation.order)
        self._db.execute("DELETE FROM failures WHERE subject IN (?, ?)", (unproved, about))
        if suspects:
            self._db.execute(_FAILURE, (about, 0, 0, " ".join(suspects)))
        else:
            self._forgive(generation)
        self._db.execute("DELETE FROM intent")

    @_transaction
    def on_probation(self) -> tuple[str, ...]:
        """What the failure of the generation that answers would speak against; empty where it is committed."""
        return self._probation()[1]

    @_transaction
    def commit(self) -> None:
        """Record that the generation on probation stays; what its models failed with before is forgotten."""
        applied, (about, _) = _row(self._db, Slot.APPLIED), self._probation()
        if applied is not None and about:
            self._db.execute("DELETE FROM failures WHERE subject = ?", (about,))
            self._forgive(generation_in(applied))

    @_transaction
    def roll_back(self, subjects: Sequence[str], error: str) -> None:
        """Record that the generation on probation does not stay: the one before it is the one that answers."""
        self._roll_back(subjects, error)

    @_transaction
    def began_on_probation(self, most: int, error: str) -> bool:
        """Count a start of the agent within a probation; the `most`-th is the end of it: all of its suspects are to blame then."""
        about, suspects = self._probation()
        counted = "UPDATE failures SET crashed = crashed + 1 WHERE subject = ? RETURNING crashed"
        starts = self._db.execute(counted, (about,)).fetchone()
        if starts is None or starts[0] < most:
            return False
        self._roll_back(suspects, error)
        return True

    @_transaction
    def signed(self, slot: Slot) -> SignedGeneration | None:
        """The generation in `slot`, as it was signed."""
        return _row(self._db, slot)

    def generation(self, slot: Slot) -> Generation | None:
        """The generation in `slot`.

        Raises:
            Refused: it rotted, or a newer agent stored it and this one cannot read it.

        """
        signed = self.signed(slot)
        return None if signed is None else generation_in(signed)

    @_transaction
    def floor(self, tenant: str, device: str) -> Order | None:
        """The highest order ever accepted for this device; None before the first."""
        rows = self._db.execute("SELECT epoch, number FROM floors WHERE (tenant, device) = (?, ?)", (tenant, device))
        found = rows.fetchone()
        return None if found is None else Order(*found)

    @_transaction
    def begin(self, order: Order, step: str, subject: str) -> Intent:
        """Record what is about to be attempted; the same step again counts up, through restarts too."""
        (attempts,) = self._db.execute(_INTENT, (*order, step, subject)).fetchone()
        return Intent(order=order, step=step, subject=subject, attempts=attempts)

    @_transaction
    def finish(self) -> None:
        """Record that the attempted step is over."""
        self._db.execute("DELETE FROM intent")

    @_transaction
    def intent(self) -> Intent | None:
        """What was being attempted; at start, what the agent died in."""
        row = self._db.execute("SELECT epoch, number, step, subject, attempts FROM intent").fetchone()
        if row is None:
            return None
        return Intent(order=Order(row[0], row[1]), step=row[2], subject=row[3], attempts=row[4])

    @_transaction
    def fail(self, subject: str, error: str) -> None:
        """Count a failure of what `subject` names, a manifest or a variant; the attempt is over."""
        self._db.execute(_FAILURE, (subject, 1, 0, error))
        self._db.execute("DELETE FROM intent")

    @_transaction
    def crash(self, subject: str, error: str) -> None:
        """Count that the agent died of it; the attempt is over."""
        self._db.execute(_FAILURE, (subject, 0, 1, error))
        self._db.execute("DELETE FROM intent")

    @_transaction
    def forgive(self, generation: Generation) -> None:
        """Forget what the models of `generation` failed with: they run."""
        self._forgive(generation)

    @_transaction
    def failures(self) -> dict[str, Failure]:
        """What failed since the accepted generation came, by subject."""
        rows = self._db.execute("SELECT subject, failed, crashed, error FROM failures")
        return {row[0]: Failure(failed=row[1], crashed=row[2], error=row[3]) for row in rows}

    def next_epoch(self) -> int:
        """A number larger than any this ever returned, durable before it is returned."""
        return self.next_seq("epoch")

    @_transaction
    def next_seq(self, name: str) -> int:
        """As `next_epoch`, for the counter `name`."""
        return int(self._db.execute(_COUNT, (name, self._first + 1)).fetchone()[0])

    def _probation(self) -> tuple[str, tuple[str, ...]]:
        """What the probation of the applied generation is recorded under, and its suspects; empty where it is not on probation."""
        query = """SELECT subject, error FROM failures, generations WHERE slot = 'applied' AND json_valid(payload) AND
          subject = json_extract(payload, '$.epoch') || '.' || json_extract(payload, '$.number') AND failed = 0"""
        found = self._db.execute(query).fetchone()
        return ("", ()) if found is None else (found[0], tuple(found[1].split()))

    def _roll_back(self, subjects: Sequence[str], error: str) -> None:
        (about, _), previous = self._probation(), _row(self._db, Slot.PREVIOUS)
        if not about or previous is None:
            return
        self._put(Slot.APPLIED, previous)
        self._db.execute("DELETE FROM generations WHERE slot = ?", (Slot.PREVIOUS.value,))
        self._db.execute("DELETE FROM intent")
        for subject in (about, *subjects):
            self._db.execute(_FAILURE, (subject, 1, 0, error))

    def _forgive(self, generation: Generation) -> None:
        digests = [(model.digest,) for model in generation.models]
        self._db.executemany("DELETE FROM failures WHERE substr(subject, 1, 64) = ?", digests)

    def _put(self, slot: Slot, signed: SignedGeneration) -> None:
        values = (slot.value, signed.key_id, signed.signature, signed.payload)
        self._db.execute("INSERT OR REPLACE INTO generations VALUES (?, ?, ?, ?)", values)


def _row(db: sqlite3.Connection, slot: Slot) -> SignedGeneration | None:
    found = db.execute("SELECT key_id, signature, payload FROM generations WHERE slot = ?", (slot.value,)).fetchone()
    return None if found is None else SignedGeneration(key_id=found[0], signature=found[1], payload=found[2])
