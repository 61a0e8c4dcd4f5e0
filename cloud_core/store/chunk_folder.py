"""Chunks in a folder: `objects/ab/abcd…`; written beside, synced, renamed, and the folder synced."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from cloud_core.decide.spare_chunks import Kept
from cloud_core.store.chunks import Begun
from shared.bundle.store import disk
from shared.io.durable import write_durably
from shared.protocol import names


class FolderBlobs:
    """Kept forms below `root`, which is made with the first; any number of processes may share it."""

    lanes = 1

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"

    def put(self, digest: str, data: bytes) -> None:
        """As `Blobs` says."""
        with disk(f"keeping chunk {digest}"):
            write_durably(self._path(digest), data)

    def get(self, digest: str, begin: int = 0, end: int | None = None) -> bytes | None:
        """As `Blobs` says."""
        with disk(f"reading chunk {digest}"):
            try:
                with self._path(digest).open("rb", buffering=0) as file:
                    file.seek(begin)
                    return _exactly(file.fileno(), (file.seek(0, os.SEEK_END) if end is None else end) - begin, begin)
            except FileNotFoundError:
                return None

    def begin(self, digest: str, length: int) -> Begun | None:
        """As `Blobs` says."""
        with disk(f"reading chunk {digest}"):
            try:
                handle = os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                return Begun(os.pread(handle, length, 0), os.fstat(handle).st_size)
            finally:
                os.close(handle)

    def delete(self, digests: Sequence[str]) -> None:
        """As `Blobs` says."""
        with disk("removing chunks"):
            for digest in digests:
                self._path(digest).unlink(missing_ok=True)

    def list(self) -> Iterator[Kept]:
        """As `Blobs` says."""
        for entry in self._entries():
            if names.DIGEST.fullmatch(entry.name) is not None:
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    yield Kept(entry.name, found.st_size, found.st_mtime)

    def discard_unfinished(self, *, older_than: float) -> None:
        """As `Blobs` says."""
        for entry in self._entries():
            if names.DIGEST.fullmatch(entry.name) is None:
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_mtime < older_than:
                        Path(entry.path).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._objects / digest[:2] / digest

    def _entries(self) -> "Iterator[os.DirEntry[str]]":
        with disk(f"listing {self._objects}"):
            if not self._objects.is_dir():
                return
            for folder in list(os.scandir(self._objects)):
                if folder.is_dir(follow_symlinks=False):
                    yield from (entry for entry in list(os.scandir(folder)) if entry.is_file(follow_symlinks=False))


def _exactly(handle: int, length: int, begin: int) -> bytes:
    parts: list[bytes] = []
    while length > 0 and (part := os.pread(handle, length, begin)):
        parts.append(part)
        begin += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
