"""What the stores of an agent said was done, and whether that is what a disk shows after a power cut.

Two kinds. Said: what a call returned from is there, until a call begins that takes it away. Named: whatever stands under a final
name is whole, said or not; that is never less than all of it.
"""

import contextlib
import functools
import threading
from pathlib import Path

from edge_agent.control import database, trials
from edge_agent.control.state import AgentState
from shared.bundle import install, store
from shared.bundle.install import verify_installed
from shared.bundle.store import ChunkStore, ChunkWriter
from shared.io import durable
from shared.protocol.errors import Corrupt
from shared.serving.tuning import records

WRITES = (
    *("accept", "apply", "commit", "roll_back", "began_on_probation"),
    *("begin", "finish", "fail", "crash", "forgive", "next_seq"),
)
TABLES = ("generations", "floors", "intent", "failures", "counters")
USERS = (durable, store, install, database, trials, records)


class Said:
    """`now()` is everything said so far about what lies below `root`, as one value."""

    def __init__(self, root):
        self._root = Path(root)
        self._claims = {}
        self._turn = threading.Lock()

    def now(self):
        with self._turn:
            return frozenset(self._claims.items())

    def say(self, key, value):
        with self._turn:
            self._claims[key] = value

    def take_back(self, *keys):
        with self._turn:
            for key in keys:
                self._claims.pop(key, None)

    def listen(self, patch):
        """Hear every store of this process; `patch` is pytest's."""
        for module in USERS:
            for name in ("make_folder", "write_durably"):
                if hasattr(module, name):
                    patch.setattr(module, name, getattr(self, f"_{name}")(getattr(durable, name)))
        patch.setattr(ChunkWriter, "commit", self._commit(ChunkWriter.commit))
        patch.setattr(ChunkStore, "discard", self._discard(ChunkStore.discard))
        patch.setattr(install, "install", self._install(install.install))
        patch.setattr(install, "remove", self._remove(install.remove))
        for name in WRITES:
            patch.setattr(AgentState, name, self._record(getattr(AgentState, name)))

    def _about(self, path):
        return str(Path(path).relative_to(self._root))

    def _make_folder(self, real):
        @functools.wraps(real)
        def call(folder, **options):
            real(folder, **options)
            if Path(folder) != self._root:
                self.say(("folder", self._about(folder)), True)

        return call

    def _write_durably(self, real):
        @functools.wraps(real)
        def call(path, data, **options):
            before = ("file", self._about(path))
            self.take_back(before)
            real(path, data, **options)
            self.say(before, bytes(data))

        return call

    def _commit(self, real):
        def call(writer):
            real(writer)
            self.say(("chunk", self._about(writer._target)), True)

        return call

    def _discard(self, real):
        def call(chunks, digest):
            self.take_back(("chunk", self._about(chunks.path(digest))))
            real(chunks, digest)

        return call

    def _install(self, real):
        def call(*arguments):
            folder = real(*arguments)
            self.take_back(("gone", self._about(folder)))
            self.say(("bundle", self._about(folder)), True)
            return folder

        return call

    def _remove(self, real):
        def call(folder):
            self.take_back(("bundle", self._about(folder)))
            real(folder)
            self.say(("gone", self._about(folder)), True)

        return call

    def _record(self, real):
        @functools.wraps(real)
        def call(state, *arguments, **options):
            key = ("record", self._about(state.path))
            self.take_back(key)
            done = real(state, *arguments, **options)
            self.say(key, rows_of(state))
            return done

        return call


def rows_of(state):
    """All that an agent's record holds."""
    with state._lock:
        return tuple(tuple(sorted(state._db.execute(f"SELECT * FROM {table}").fetchall())) for table in TABLES)


def broken(root, said, agent="agent"):
    """What a disk does not show as it was said; empty where all is well. Opens the record, as a start does."""
    return [*_said(root, said), *_named(root / agent)]


def _said(root, said):
    for (kind, where), value in sorted(said, key=lambda each: each[0]):
        path = root / where
        match kind:
            case "folder":
                kept = path.is_dir()
            case "file":
                kept = path.is_file() and path.read_bytes() == value
            case "chunk":
                kept = path.is_file() and path.stat().st_size > 0
            case "bundle":
                kept = path.is_dir()
            case "gone":
                kept = not path.exists()
            case "record":
                kept = path.is_file() and _rows(path) == value
        if not kept:
            yield f"{kind} {where} is not as it was said"


def _named(agent):
    chunks, bundles = ChunkStore(agent / "chunks"), agent / "bundles"
    for digest in sorted(chunks.held()):
        try:
            chunks.get(digest)
        except Corrupt:
            yield f"chunk {digest} is not whole"
    for folder in install.installed(bundles).values():
        try:
            verify_installed(folder)
        except Corrupt as error:
            yield f"bundle {folder.name} is not whole: {error.message}"


def _rows(path):
    state = AgentState(path.parent)
    with contextlib.closing(state):
        return None if state.recovered is not None else rows_of(state)
