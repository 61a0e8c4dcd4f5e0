"""Folders of imports: a source put together again from its chunks, the work around it, and what may go when it is over."""

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Set
from pathlib import Path

from cloud_core.store.imports import Asked, SourceFile
from shared.bundle.install import SPARE_BYTES, check_space
from shared.bundle.manifest import MANIFEST_FILE, MAX_BYTES, parse_manifest
from shared.bundle.store import ChunkStore, disk
from shared.io.durable import make_folder
from shared.protocol.errors import Corrupt, Refusal, Refused

SOURCE, GIVEN, HOME, TEMPORARY = "source", "given", "home", "tmp"
PROGRAM = ".onnx"


def fresh_work(work: Path) -> None:
    """An empty folder for one attempt, only its owner's.

    Raises:
        Transient: the disk is full or failing.

    """
    with disk(f"preparing {work.name}"):
        discard(work)
        make_folder(work, mode=0o700)
        for name in (HOME, TEMPORARY):
            (work / name).mkdir(mode=0o700)


def materialize(asked: Asked, store: ChunkStore, work: Path) -> Path | None:
    """Put the uploaded files into `work`; where the source lies: a folder, or its one `.onnx` file. None for a source on a hub.

    Raises:
        Refused: the chunks do not make up the file.
        Corrupt: a chunk is gone, or rotted.
        Transient: the disk is full or failing; what is there is removed with the folder.

    """
    with disk(f"preparing {work.name}"):
        check_space(work, sum(file.size for file in asked.every_file) + SPARE_BYTES, what="the source")
        for file in asked.files:
            _write(file, work / SOURCE, store)
        for beside, where in ((asked.golden, "golden"), (asked.signature, "signature")):
            if beside is not None:
                _write(beside, work / GIVEN / where, store)
    if not asked.files:
        return None
    only = asked.files[0].path
    return work / SOURCE / only if len(asked.files) == 1 and only.endswith(PROGRAM) else work / SOURCE


def given(asked: Asked, work: Path) -> dict[str, str]:
    """Where `materialize` put the files beside the source, by what they are."""
    named = {"golden": asked.golden, "signature": asked.signature}
    return {what: str(work / GIVEN / what / file.path) for what, file in named.items() if file is not None}


def check_bundle(bundle: Path, *, model: str, version: str) -> None:
    """Hold a finished bundle to what was asked, before any of it is kept: its manifest's names, and regular files only.

    Raises:
        Corrupt: the importer left something else; says what.
        Transient: the disk did not give it.

    """
    with disk("reading the bundle"):
        try:
            is_folder = stat.S_ISDIR(bundle.lstat().st_mode)
        except FileNotFoundError:
            is_folder = False
        if not is_folder:
            raise Corrupt("the importer left no bundle", code="no-bundle")
        for entry in os.scandir(bundle):
            if not entry.is_file(follow_symlinks=False):
                raise Corrupt(f"the bundle has {entry.name}, which is no regular file", code="not-a-file")
        manifest = bundle / MANIFEST_FILE
        if not manifest.exists() or manifest.stat().st_size > MAX_BYTES:
            raise Corrupt(f"the bundle has no manifest of at most {MAX_BYTES} bytes", code="no-bundle")
        _check_names(manifest.read_bytes(), model=model, version=version)


def discard(work: Path) -> None:
    """Remove a folder of work, whatever a program left in it; what resists is tried again by the next sweep."""
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(work)


def discard_works(folder: Path) -> None:
    """Remove what imports that ended left; only who runs them may call it, while none is under way."""
    if folder.is_dir():
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                discard(Path(entry.path))


def discard_chunks(store: ChunkStore, keep: Set[str], *, older_than: float) -> int:
    """Remove chunks that are not in `keep` and came before then (Unix seconds); how many. Younger ones may be of an upload under way."""
    store.discard_unfinished()
    count = 0
    for digest in store.held() - keep:
        with contextlib.suppress(FileNotFoundError):
            if store.path(digest).stat().st_mtime < older_than:
                store.discard(digest)
                count += 1
    return count


def size_of(folder: Path) -> int:
    """Bytes on the disk below a folder that a program is writing into."""
    total = 0
    for where, _, files in os.walk(folder, onerror=None):
        for name in files:
            with contextlib.suppress(OSError):
                total += (Path(where) / name).lstat().st_blocks * 512
    return total


def _check_names(data: bytes, *, model: str, version: str) -> None:
    try:
        manifest = parse_manifest(data)
    except Refused as error:
        raise Corrupt(f"the importer left a bundle that cannot be: {error.message}", code=error.code) from error
    if (manifest.name, manifest.version) != (model, version):
        message = f"the importer made {manifest.name}@{manifest.version} instead of {model}@{version}"
        raise Corrupt(message, code="another-model")


def _write(file: SourceFile, folder: Path, store: ChunkStore) -> None:
    path = folder / file.path
    make_folder(path.parent, mode=0o700)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    whole = hashlib.sha256()
    with os.fdopen(handle, "wb") as out:
        for chunk in file.chunks:
            if not store.has(chunk.digest):
                # It was here when the import was asked for; another one that ended took it along.
                raise Corrupt(
                    f"a piece of {file.path} is gone: import again, what is missing is sent", code="chunks-missing"
                )
            for block in store.read(chunk.digest):
                whole.update(block)
                out.write(block)
    if whole.hexdigest() != file.sha256:
        raise Refused(
            "the chunks are not the file's",
            kind=Refusal.UNPROCESSABLE,
            field=file.path,
            value=file.sha256,
            code="file-mismatch",
        )
