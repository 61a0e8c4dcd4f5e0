"""What the files of a bundle may hold, by what the manifest uses them for; read before anything is loaded from them."""

import zipfile
from pathlib import Path

import msgspec
import numpy as np

from shared.bundle.manifest import Manifest, Variant
from shared.bundle.sniff import HEAD, JSON, ZIP, kind_of
from shared.protocol.errors import Refusal, Refused
from shared.serving.trial.program import check_program

ONNX = ("onnx", "onnxruntime")
"""Runtimes whose program is an ONNX file."""
MAX_JSON = 64 << 20
MAX_TEXT = 16 << 20
MAX_ARRAYS = 256 << 20
"""Bytes of all arrays of one file, unpacked."""
MAX_MEMBERS = 1000


def check_contents(manifest: Manifest, variant: Variant, folder: Path) -> None:
    """Judge every file that `variant` needs. Blocks.

    Raises:
        Refused: `code` is `forbidden-content`, `too-large`, or one of `check_program`'s; the field names the file.

    """
    program, *_ = variant.files
    for entry in manifest.files_of(variant.name):
        path = folder / entry.path
        if entry.path == program:
            if variant.runtime in ONNX:
                check_program(path)
        elif entry.path.endswith(".npz"):
            check_arrays(path)
        elif entry.path.endswith(".json"):
            check_json(path)
        elif entry.path.endswith((".md", ".txt")):
            check_text(path)
        else:
            allowed = "the variant's program, .json, .npz, .txt and .md"
            raise _refused("a file of a kind no bundle holds", entry.path, value=entry.path, allowed=allowed)


def check_json(path: Path) -> None:
    """JSON of a bounded size.

    Raises:
        Refused: it is not.

    """
    data = _all_of(path, MAX_JSON)
    if kind_of(data[:HEAD]) not in (JSON, None):
        raise _refused("not JSON", path.name, value=kind_of(data[:HEAD]), allowed="JSON")
    try:
        # As bytes that stand for themselves: a tree of Python objects would take many times their size.
        msgspec.json.decode(data, type=dict[str, msgspec.Raw] | list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refused(f"not JSON: {error}", path.name, allowed="JSON, not nested too deep") from error


def check_text(path: Path) -> None:
    """UTF-8 text of a bounded size.

    Raises:
        Refused: it is not.

    """
    data = _all_of(path, MAX_TEXT)
    kind = kind_of(data[:HEAD])
    # What reads as JSON or markup is text; so is what begins like a script.
    if b"\0" in data or kind not in (None, JSON, "markup", "a script"):
        raise _refused("not text", path.name, value=kind or "NUL bytes", allowed="UTF-8 text")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise _refused(f"not text: {error.reason}", path.name, allowed="UTF-8 text") from error


def check_arrays(path: Path) -> None:
    """An `.npz` file of plain arrays: nothing pickled, nothing that unpacks to more than `MAX_ARRAYS` bytes.

    Raises:
        Refused: it is not.

    """
    with path.open("rb") as file:
        if kind_of(file.read(HEAD)) != ZIP:
            raise _refused("not an .npz file", path.name, allowed="what numpy.savez writes")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_ARRAYS:
                raise _too_large(path, f"{MAX_MEMBERS} arrays of {MAX_ARRAYS} bytes together")
            for member in members:
                _check_array(archive, member, path)
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise _refused(f"not an .npz file: {error}", path.name, allowed="what numpy.savez writes") from error


def _check_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    if not member.filename.endswith(".npy") or "/" in member.filename:
        raise _refused("holds something that is no array", path.name, value=member.filename, allowed="arrays")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise _refused("holds a pickle", f"{path.name}:{member.filename}", value=str(dtype), allowed="numbers")
        if min(shape, default=0) < 0 or int(np.prod(shape, dtype=object)) * dtype.itemsize > member.file_size:
            raise _too_large(path, f"{member.file_size} bytes, as the archive says")


def _all_of(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise _too_large(path, f"{most} bytes")
    return data


def _too_large(path: Path, allowed: str) -> Refused:
    return _refused(
        "too large", path.name, code="too-large", value=f"{path.stat().st_size} bytes", allowed=f"at most {allowed}"
    )


def _refused(
    message: str, field: str, *, code: str = "forbidden-content", value: object = None, allowed: str | None = None
) -> Refused:
    return Refused(message, kind=Refusal.UNPROCESSABLE, field=field, value=value, allowed=allowed, code=code)
