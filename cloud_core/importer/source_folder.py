"""What a source's folder may hold, looked at before anything in it is read: regular files, no links, nothing hidden, bounded."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shared.protocol.errors import Refusal, Refused

LEFT_BY_HUBS = frozenset(
    {".msc", ".mdl", ".mv", ".git", ".gitattributes", ".gitignore", ".cache", "._____temp", ".lock"}
)
"""What hubs' clients leave beside a model. It is not read, and not looked into."""
MAX_FILES = 5_000
MAX_DEPTH = 8
MAX_FILE_BYTES = 32 << 30
MAX_BYTES = 64 << 30


def check_source_folder(folder: Path) -> None:
    """Look at every file's name and kind.

    Raises:
        Refused: a link, something hidden, no regular file, or too much; names it.

    """
    total = 0
    for count, (path, found) in enumerate(_entries(folder, folder, 0), 1):
        total += found.st_size
        if count > MAX_FILES:
            raise Refused("too many files", kind=Refusal.TOO_LARGE, field="source", value=count, allowed=f"{MAX_FILES}")
        if found.st_size > MAX_FILE_BYTES or total > MAX_BYTES:
            allowed = f"files of {MAX_FILE_BYTES} B, {MAX_BYTES} B together"
            raise Refused("too large", kind=Refusal.TOO_LARGE, field=path, value=found.st_size, allowed=allowed)


def _entries(folder: Path, root: Path, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = str(Path(entry.path).relative_to(root))
            found = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                allowed = "files: fetch the model into a folder of its own, without a cache's links"
                raise _refused("a link", path, allowed)
            if entry.name in LEFT_BY_HUBS:
                continue
            if entry.name.startswith("."):
                raise _refused(
                    "a hidden file", path, "no names with a dot in front but " + ", ".join(sorted(LEFT_BY_HUBS))
                )
            if stat.S_ISDIR(found.st_mode):
                if depth == MAX_DEPTH:
                    raise _refused("too deep", path, f"{MAX_DEPTH} folders within each other")
                yield from _entries(Path(entry.path), root, depth + 1)
            elif stat.S_ISREG(found.st_mode):
                yield path, found
            else:
                raise _refused("not a regular file", path, "files and folders")


def _refused(message: str, path: str, allowed: str) -> Refused:
    return Refused(message, kind=Refusal.UNPROCESSABLE, field=path, allowed=allowed)
