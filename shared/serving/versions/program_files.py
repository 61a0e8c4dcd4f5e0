"""The files of a version's program: are they still those that were checked? Blocks.

A program that comes back into memory is not replayed against its golden set again: its bytes are those that passed, and a
runtime is as deterministic the second time. That holds only while the bytes are the same, so this is what is checked: the kernel's
own marks of a file (inode, size, times of content and of status, the last of which no program can set), and where one differs
the file is hashed against its manifest.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from shared.bundle.manifest import Manifest, Variant
from shared.protocol.errors import Corrupt

CHANGED = "program-changed"


class ProgramFiles:
    """Of one variant in `folder`, as they are when this is made."""

    def __init__(self, manifest: Manifest, variant: Variant, folder: Path) -> None:
        digests = {entry.path: entry.sha256 for entry in manifest.files}
        self._digests = {folder / path: digests.get(path) for path in variant.files}
        self._seen: Mapping[Path, object] = {path: _marks(path) for path in self._digests}

    def check(self) -> None:
        """Nothing, where the bytes are the same.

        Raises:
            Corrupt: a file changed, or is gone, since it was checked.

        """
        for path, digest in self._digests.items():
            marks = _marks(path)
            if marks == self._seen[path]:
                continue
            if marks is None or digest is None or _digest(path) != digest:
                what = "is gone" if marks is None else "has changed"
                raise Corrupt(f"{path.name} {what} since it was checked", code=CHANGED)
            # Copied back, or touched: the same bytes under other marks.
            self._seen = {**self._seen, path: marks}


def _marks(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
