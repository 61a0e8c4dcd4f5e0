"""A chunk on its way over a network: what has come of it outlives the process, so that a fetch goes on from there.

Invariants:

* a partial chunk lies in `partial/`, named by its digest, and counts for nothing until it was verified and renamed as any chunk is;
* its bytes are hashed again when it is taken up; they are not synced, so after a power cut they may be wrong, which the end shows;
* it holds the form that was sent (`shared.bundle.packing`), which `commit` unpacks;
* one process at a time: the agent's, which has its folder to itself.
"""

import hashlib
from collections.abc import Set
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.bundle.manifest import Chunk
from shared.bundle.packing import HEAD, is_packed, unpack
from shared.bundle.store import BLOCK, ChunkStore, ChunkWriter, disk
from shared.io.durable import make_folder
from shared.protocol.errors import Transient, Unavailable

FOLDER = "partial"


class PartialChunk(ChunkWriter):
    """Writes one chunk as `ChunkWriter` does; where its `with` ends early, what came stays, unless the disk is full or it is wrong."""

    def __init__(self, store: ChunkStore, chunk: Chunk) -> None:
        """In `store`'s folder; `chunk` says how long its content is."""
        self._folder = store.root / FOLDER
        super().__init__(store.path(chunk.digest), self._folder, digest=chunk.digest, size=chunk.size)
        self._size = chunk.size
        self._head = b""

    def write(self, piece: bytes) -> None:
        """Append a piece; raises as `ChunkWriter.write`."""
        self._look(piece)
        super().write(piece)

    def commit(self) -> None:
        """Unpack what came packed, verify, and make the chunk durable under its name; raises as `ChunkWriter.commit`."""
        if is_packed(self._head) and self._hash.hexdigest() != self._digest:
            with disk(f"reading chunk {self._digest}"):
                packed = Path(self._staged).read_bytes()
            content = unpack(packed, self._size)
            self.restart()
            self._limit = self._size
            super().write(content)
        self._limit = self._size
        super().commit()

    def restart(self) -> None:
        """Forget what came."""
        if self._file is None:
            raise RuntimeError("a partial chunk is used inside its `with`")
        with disk(f"writing chunk {self._digest}"):
            self._file.seek(0)
            self._file.truncate()
        self._hash = hashlib.sha256()
        self._head, self.written = b"", 0

    def __enter__(self) -> Self:
        with disk(f"writing chunk {self._digest}"):
            make_folder(self._folder.parent)
            self._folder.mkdir(exist_ok=True)  # not synced, as nothing in it is
            path = self._folder / self._digest
            self._file, self._staged = path.open("a+b", buffering=0), str(path)
            self._file.seek(0)
            while block := self._file.read(BLOCK):
                self._look(block)
                self._hash.update(block)
                self.written += len(block)
        if self.written > (self._limit or 0):
            self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        storage = isinstance(error, Transient) and error.why is Unavailable.STORAGE
        wrong = isinstance(error, Exception) and not isinstance(error, Transient)
        if self.written and not storage and not wrong:
            self._staged = ""
        super().__exit__(kind, error, trace)

    def _look(self, piece: bytes) -> None:
        """Content that looks packed is packed whatever that saves: a little longer than its content, then."""
        if len(self._head) < HEAD:
            self._head += piece[: HEAD - len(self._head)]
            self._limit = most(self._size) if is_packed(self._head) else self._size


def most(size: int) -> int:
    """Bytes of the longest form in which a chunk of `size` bytes is sent."""
    return size + (size >> 7) + 64


def discard_partial(store: ChunkStore, keep: Set[str] = frozenset(), *, spare: int = 0) -> None:
    """Remove partial chunks whose digest is not in `keep`; the newest `spare` of them stay, for whoever comes back to them."""
    folder = store.root / FOLDER
    with disk("removing partial chunks"):
        others = [path for path in folder.iterdir() if path.name not in keep] if folder.is_dir() else []
        others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in others[spare:]:
            path.unlink()
