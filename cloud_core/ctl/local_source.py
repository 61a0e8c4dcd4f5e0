"""A model's folder or `.onnx` file on this machine: which of its files go to the server, and their pieces."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from cloud_core.models.bundling import described
from shared.bundle.manifest import Chunk, File
from shared.protocol import names
from shared.protocol.errors import Refusal, Refused

DEEPEST = 2
PROGRAM = ".onnx"
FOREIGN = (
    ".h5",
    ".msgpack",
    ".ot",
    ".tflite",
    ".gguf",
    ".mlmodel",
    ".pdparams",
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".mp4",
)
"""Other frameworks' weights, and pictures: large, and read by nobody."""
INNER = (".json", ".txt")
"""What of a folder within is read: other runtimes' copies of the weights lie there as well."""
ALLOWED = "modelscope:<owner>/<name>[@revision], a model's folder, or an .onnx file"


class Place(NamedTuple):
    """Where a chunk's bytes are."""

    path: Path
    offset: int


class LocalSource(NamedTuple):
    """What is sent: files by their paths within the source, where every chunk lies, and what was left out."""

    files: tuple[File, ...]
    places: dict[str, Place]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def read(self, chunk: Chunk) -> bytes:
        """A chunk's bytes.

        Raises:
            Refused: the file is not what it was.

        """
        place = self.places[chunk.digest]
        with place.path.open("rb") as file:
            file.seek(place.offset)
            data = file.read(chunk.size)
        if hashlib.sha256(data).hexdigest() != chunk.digest:
            raise Refused("the file changed while it was sent", kind=Refusal.CONFLICT, field=str(place.path))
        return data


def read_source(path: Path) -> LocalSource:
    """Everything of a folder that is sent, or the one `.onnx` file.

    Raises:
        Refused: not there, a link, or nothing in it.
        Transient: the disk does not give it.

    """
    if path.is_dir() and not path.is_symlink():
        entries = dict(_entries(path, ""))
        found = {inner: file for inner, file in entries.items() if file is not None}
        if not found:
            raise Refused("nothing to import in it", field="SOURCE", value=str(path), allowed=ALLOWED)
        return _described(found, [inner for inner in entries if inner not in found])
    if path.suffix == PROGRAM and path.exists():
        # Its name here may be anything; the server takes plain ones.
        inner = path.name if names.FILE.fullmatch(path.name) else f"model{PROGRAM}"
        return _described({inner: path}, [])
    raise Refused("no such source", kind=Refusal.NOT_FOUND, field="SOURCE", value=str(path), allowed=ALLOWED)


def read_file(path: Path, *, option: str) -> LocalSource:
    """One file that goes beside a source, under a name the server takes.

    Raises:
        Refused: not a regular file; names the option.

    """
    if not path.is_file():
        raise Refused("no such file", kind=Refusal.NOT_FOUND, field=option, value=str(path))
    suffix = path.suffix if names.FILE.fullmatch(f"given{path.suffix}") else ""
    return _described({path.name if names.FILE.fullmatch(path.name) else f"given{suffix}": path}, [])


def _entries(folder: Path, before: str) -> Iterator[tuple[str, Path | None]]:
    """Paths within the source in order, each with its file; None for what is left out."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        inner = f"{before}{entry.name}"
        if entry.is_symlink():
            allowed = "files of its own: cp -rL makes a copy without links"
            raise Refused("a link", kind=Refusal.UNPROCESSABLE, field="SOURCE", value=entry.path, allowed=allowed)
        unread = entry.is_file() and (
            entry.name.lower().endswith(FOREIGN) or (before and not entry.name.endswith(INNER))
        )
        if names.FILE.fullmatch(entry.name) is None or unread:
            yield inner, None
        elif entry.is_dir():
            if inner.count("/") + 1 < DEEPEST:
                yield from _entries(Path(entry.path), f"{inner}/")
            else:
                yield f"{inner}/", None
        else:
            yield inner, Path(entry.path)


def _described(found: dict[str, Path], left_out: list[str]) -> LocalSource:
    files, places = [], {}
    for inner, path in found.items():
        file = described(path)
        files.append(msgspec.structs.replace(file, path=inner))
        offset = 0
        for chunk in file.chunks:
            places[chunk.digest] = Place(path, offset)
            offset += chunk.size
    return LocalSource(tuple(files), places, tuple(left_out))
