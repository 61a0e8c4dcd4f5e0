"""A content-addressed store of chunks on disk: `objects/ab/abcd…`, named by the SHA-256 of the bytes.

Invariants:

* a name under `objects/` exists only once its bytes were verified and are durable: write, fsync, rename, fsync the folder;
* what is half written lies in `incoming/` under a lock the kernel gives back when its writer ends, so leftovers of a
  crash are told from work in progress of another process and removed;
* bytes are hashed again whenever they are read here; a chunk that rotted is removed, so that it counts as missing.

Everything blocks on the disk: callers on an event loop use `asyncio.to_thread`.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Protocol, Self

from shared.io.durable import make_folder, sync_folder
from shared.protocol import names
from shared.protocol.errors import Corrupt, Refusal, Refused, Transient, Unavailable

BLOCK = 1 << 20
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Collected(NamedTuple):
    """How many were removed, and how many bytes that gave back."""

    removed: int
    freed: int


class Readable(Protocol):
    """What a bundle is installed from: this store, or one of the control plane's."""

    def read(self, digest: str) -> Iterator[bytes]:
        """The chunk's bytes in blocks, hashed again; raises as `ChunkStore.get`."""
        ...

    def blocks(self, digest: str) -> Iterator[bytes]:
        """The chunk's bytes in blocks, as they lie there: for whoever hashes what they make up."""
        ...


class ChunkStore:
    """Chunks below one folder; any number of processes may share it."""

    def __init__(self, root: Path) -> None:
        """`root` is made when the first chunk is written."""
        self.root = root
        self._objects = root / "objects"
        self._incoming = root / "incoming"

    def path(self, digest: str) -> Path:
        """Where the chunk lies, or would.

        Raises:
            Refused: not a digest.

        """
        names.checked("digest", digest, field="digest")
        return self._objects / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Whether the chunk is here; its bytes were verified when they came."""
        return self.size(digest) is not None

    def size(self, digest: str) -> int | None:
        """Bytes of the chunk; None when it is not here."""
        try:
            found = self.path(digest).lstat()
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def sizes(self, digests: Iterable[str]) -> dict[str, int]:
        """Bytes of those that are here, in the order asked."""
        found = {digest: self.size(digest) for digest in digests}
        return {digest: size for digest, size in found.items() if size is not None}

    def held(self) -> frozenset[str]:
        """The digests of all chunks here."""
        return frozenset(entry.name for entry in self._entries())

    def total(self) -> int:
        """Bytes of all chunks here."""
        return sum(entry.stat(follow_symlinks=False).st_size for entry in self._entries())

    def get(self, digest: str) -> bytes:
        """The chunk's bytes, hashed again.

        Raises:
            Refused: not here.
            Corrupt: the bytes rotted; the chunk is gone now and can be fetched again.
            Transient: the disk did not give them.

        """
        return b"".join(self.read(digest))

    def read(self, digest: str) -> Iterator[bytes]:
        """The chunk's bytes in blocks; raises like `get`, a rotten chunk's `Corrupt` only after the last block."""
        found = hashlib.sha256()
        for block in self.blocks(digest):
            found.update(block)
            yield block
        if found.hexdigest() != digest:
            self.discard(digest)
            raise Corrupt(f"chunk {digest} rotted on disk: its bytes hash to {found.hexdigest()}", code="chunk-rotten")

    def blocks(self, digest: str) -> Iterator[bytes]:
        """The chunk's bytes in blocks, not hashed: for whoever hashes what they make up; else raises like `get`."""
        path = self.path(digest)
        with disk(f"reading chunk {digest}"):
            try:
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError as error:
                raise Refused("no such chunk", kind=Refusal.NOT_FOUND, field="digest", value=digest) from error
            with os.fdopen(handle, "rb", buffering=0) as file:
                while block := file.read(BLOCK):
                    yield block

    def put(self, digest: str, data: bytes) -> None:
        """Keep a chunk, durably; harmless when it is here already.

        Raises:
            Corrupt: the bytes are not what `digest` names.
            Transient: the disk is full or failing; nothing is left behind.

        """
        self.put_stream(digest, (data,))

    def put_stream(self, digest: str, pieces: Iterable[bytes], *, size: int | None = None) -> None:
        """Keep a chunk that comes in pieces; raises like `put`, also when there are more or fewer than `size` bytes."""
        with self.writing(digest, size=size) as writer:
            for piece in pieces:
                writer.write(piece)
            writer.commit()

    def writing(self, digest: str, *, size: int | None = None) -> "ChunkWriter":
        """A writer for a chunk whose pieces arrive over time; use it in a `with`, and `commit` at the end."""
        return ChunkWriter(self.path(digest), self._incoming, digest=digest, size=size)

    def discard(self, digest: str) -> None:
        """Remove a chunk; harmless when it is not here."""
        self.path(digest).unlink(missing_ok=True)

    def collect(self, keep: Set[str]) -> Collected:
        """Remove every chunk that is not in `keep`, and what crashed writers left."""
        self.discard_unfinished()
        count = size = 0
        for entry in self._entries():
            if entry.name not in keep:
                size += entry.stat(follow_symlinks=False).st_size
                Path(entry.path).unlink(missing_ok=True)
                count += 1
        return Collected(count, size)

    def discard_unfinished(self) -> int:
        """Remove half-written chunks whose writer is gone; returns how many."""
        count = 0
        for entry in _listed(self._incoming):
            with contextlib.suppress(FileNotFoundError, BlockingIOError), Path(entry.path).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Path(entry.path).unlink(missing_ok=True)
                count += 1
        return count

    def settle(self) -> None:
        """Make durable what a killed writer may have left under its name and never synced, since from now on it counts.

        Raises:
            Transient: the disk is failing.

        """
        with disk(f"settling {self.root}"):
            if self._objects.is_dir():
                for folder in (self.root.parent, self.root, self._objects, *map(Path, _listed(self._objects))):
                    if folder.is_dir():
                        sync_folder(folder)

    def _entries(self) -> Iterator["os.DirEntry[str]"]:
        for folder in _listed(self._objects):
            for entry in _listed(Path(folder)):
                if names.DIGEST.fullmatch(entry.name) is not None and entry.is_file(follow_symlinks=False):
                    yield entry


class ChunkWriter:
    """Writes one chunk: `write` pieces, then `commit`; leaving the `with` without that leaves nothing behind."""

    def __init__(self, target: Path, incoming: Path, *, digest: str, size: int | None) -> None:
        self._target = target
        self._incoming = incoming
        self._digest = digest
        self._limit = size
        self._hash = hashlib.sha256()
        self._file: BinaryIO | None = None
        self._staged = ""
        self.written = 0

    def write(self, piece: bytes) -> None:
        """Append a piece.

        Raises:
            Corrupt: more bytes than the chunk has.
            Transient: the disk is full or failing.

        """
        if self._file is None:
            raise RuntimeError("a chunk writer is used inside its `with`")
        self.written += len(piece)
        if self._limit is not None and self.written > self._limit:
            raise Corrupt(f"chunk {self._digest} is longer than its {self._limit} bytes", code="chunk-too-long")
        self._hash.update(piece)
        with disk(f"writing chunk {self._digest}"):
            rest = memoryview(piece)
            while rest:
                rest = rest[self._file.write(rest) :]

    def commit(self) -> None:
        """Verify, and make the chunk durable under its name.

        Raises:
            Corrupt: too few bytes, or not those that the digest names.
            Transient: the disk is full or failing.

        """
        if self._file is None:
            raise RuntimeError("a chunk writer is used inside its `with`")
        if self._limit is not None and self.written != self._limit:
            raise Corrupt(f"chunk {self._digest} has {self.written} of {self._limit} bytes", code="chunk-too-short")
        if self._hash.hexdigest() != self._digest:
            raise Corrupt(f"bytes hash to {self._hash.hexdigest()}, not to {self._digest}", code="chunk-mismatch")
        with disk(f"keeping chunk {self._digest}"):
            os.fsync(self._file.fileno())
            make_folder(self._target.parent)
            os.rename(self._staged, self._target)  # noqa: PTH104 - same bytes if another writer was first
            sync_folder(self._target.parent)
        self._staged = ""

    def __enter__(self) -> Self:
        with disk(f"writing chunk {self._digest}"):
            make_folder(self._incoming)
            while not self._staged:
                handle, path = tempfile.mkstemp(prefix=f"{self._digest}.", dir=self._incoming)
                fcntl.flock(handle, fcntl.LOCK_EX)
                if os.fstat(handle).st_nlink:
                    self._file, self._staged = os.fdopen(handle, "wb", buffering=0), path
                else:
                    os.close(handle)  # a sweep took it for a leftover before it was locked
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._staged:
            Path(self._staged).unlink(missing_ok=True)
        if self._file is not None:
            self._file.close()


@contextlib.contextmanager
def disk(what: str) -> Iterator[None]:
    """Turn the operating system's complaint into the taxonomy: full or failing storage is ours to try again later."""
    try:
        yield
    except OSError as error:
        full = "the disk is full" if error.errno in FULL else f"the disk failed: {error.strerror}"
        raise Transient(f"{what}: {full}", why=Unavailable.STORAGE) from error


def _listed(folder: Path) -> "list[os.DirEntry[str]]":
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
