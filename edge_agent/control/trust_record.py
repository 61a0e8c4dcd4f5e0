"""What of TUF metadata must survive a power cut: the versions that were accepted, and the manifests that were among the targets.

python-tuf's own files are a cache: they are not made durable, and one that is lost takes its rollback check with it. In here every
change is durable when its method returns (SQLite, `synchronous=FULL`).
"""

import threading
from collections.abc import Mapping
from pathlib import Path

from edge_agent.control.database import open_sound, sound
from edge_agent.decide.trusting import Accepted

FILE = "trust.db"
SCHEMA = 1
_TABLES = """
CREATE TABLE floors (
  role TEXT PRIMARY KEY, version INTEGER NOT NULL, scope TEXT NOT NULL, expires_at REAL NOT NULL) STRICT;
CREATE TABLE vouched (target TEXT PRIMARY KEY, digest TEXT NOT NULL) STRICT;
"""


class TrustRecord:
    """The record. One process owns its folder; usable from any thread."""

    def __init__(self, folder: Path) -> None:
        """Open or make it.

        Raises:
            Refused: written by a newer agent.
            Transient: the disk is full or failing.

        """
        self._path = folder / FILE
        self._lock = threading.Lock()
        opened = open_sound(self._path, schema=SCHEMA, tables=_TABLES, field="state_dir")
        self._db = opened.connection
        self.recovered = opened.aside
        """Where a broken record was moved to; None when it was sound."""

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._db.close()

    def floors(self) -> dict[str, Accepted]:
        """The newest accepted metadata, by role."""
        with self._lock, sound(self._path):
            rows = self._db.execute("SELECT role, version, scope, expires_at FROM floors").fetchall()
        return {role: Accepted(version, scope, expires_at) for role, version, scope, expires_at in rows}

    def accept(self, seen: Mapping[str, Accepted]) -> None:
        """From now on nothing older counts. The caller has held it against `floors`."""
        rows = [(role, one.version, one.scope, one.expires_at) for role, one in seen.items()]
        with self._lock, sound(self._path), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO floors VALUES (?, ?, ?, ?)", rows)

    def vouch(self, target: str, digest: str) -> None:
        """Remember that the manifest was seen among verified targets."""
        with self._lock, sound(self._path), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT OR REPLACE INTO vouched VALUES (?, ?)", (target, digest))

    def vouches(self, target: str, digest: str) -> bool:
        """Whether it was."""
        with self._lock, sound(self._path):
            found = self._db.execute("SELECT digest FROM vouched WHERE target = ?", (target,)).fetchone()
        return found is not None and found[0] == digest
