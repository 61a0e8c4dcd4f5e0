"""Installing a variant of a model version: all of it under its final name, verified and durable, or nothing.

Order: staging folder -> each file assembled from its chunks, fsync, size and SHA-256 checked -> `manifest.json` last ->
fsync the folder -> rename to `<digest>-<variant>` -> fsync the parent. A crash at any point leaves a staging folder, which
the next start removes, or the whole bundle. A bundle is its exact set of regular files: links and extras are refused.
A staging folder is locked by the process that fills it, so several processes may install into one folder. Everything
blocks on the disk: callers on an event loop use `asyncio.to_thread`.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Set
from pathlib import Path
from typing import NamedTuple

from shared.bundle.manifest import MANIFEST_FILE, MAX_BYTES, File, Manifest, digest_of, parse_manifest
from shared.bundle.store import BLOCK, Collected, Readable, disk
from shared.io.durable import make_folder, sync_folder
from shared.protocol import names
from shared.protocol.errors import Corrupt, Transient, Unavailable

STAGING = ".staging-"
SPARE_BYTES = 1 << 20
"""What must stay free on the disk besides the bundle, for folders and journals."""


class Installed(NamedTuple):
    """A verified bundle on disk."""

    folder: Path
    digest: str
    variant: str
    manifest: Manifest


def folder_name(digest: str, variant: str) -> str:
    """The name of an installed bundle's folder.

    Raises:
        Refused: a digest or a variant's name that could leave the folder.

    """
    return f"{names.checked('digest', digest, field='digest')}-{names.checked('file', variant, field='variant')}"


def parse_folder_name(name: str) -> tuple[str, str] | None:
    """Digest and variant of an installed bundle's folder; None for any other folder."""
    digest, dash, variant = name[:64], name[64:65], name[65:]
    if names.DIGEST.fullmatch(digest) and dash == "-" and names.FILE.fullmatch(variant):
        return digest, variant
    return None


def install(manifest_bytes: bytes, variant: str, store: Readable, bundles: Path) -> Path:
    """The folder of the installed bundle; the work is only done where it is not there and whole already.

    Raises:
        Refused: a manifest that contradicts itself, an unknown variant, or a chunk that is not in `store`.
        Corrupt: a chunk rotted (it is gone from `store` now), or the chunks do not make up the file.
        Transient: not enough disk, or it is failing; nothing is left behind.

    """
    manifest = parse_manifest(manifest_bytes)
    files = manifest.files_of(variant)
    target = bundles / folder_name(digest_of(manifest_bytes), variant)
    with disk(f"installing {manifest.name} {manifest.version}"):
        make_folder(bundles)
        if target.exists():
            with contextlib.suppress(Corrupt):
                verify_installed(target)
                # Whoever put it there may have died before its name was durable.
                sync_folder(bundles)
                return target
            remove(target)
        need = sum(entry.size for entry in files) + len(manifest_bytes) + SPARE_BYTES
        check_space(bundles, need, what=f"{manifest.name} {manifest.version}")
        with _staging(bundles) as staged:
            for entry in files:
                _assemble(entry, staged, store)
            _write(staged / MANIFEST_FILE, iter((manifest_bytes,)))
            sync_folder(staged)
            try:
                staged.rename(target)
            except OSError:
                if not target.exists():
                    raise
                # Another process was first with the same bytes.
                verify_installed(target)
            sync_folder(bundles)
    return target


def check_space(folder: Path, need: int, *, what: str) -> None:
    """Say before anything is written that the disk cannot take it.

    Raises:
        Transient: fewer than `need` bytes are free where `folder` is.

    """
    free = shutil.disk_usage(folder).free
    if free < need:
        raise Transient(f"{what} needs {need} B of disk, {free} B are free", why=Unavailable.STORAGE)


def verify_installed(folder: Path) -> Installed:
    """Hash an installed bundle again: its manifest, and exactly the files its variant needs.

    Raises:
        Corrupt: anything is missing, changed, extra, or no regular file; says what.
        Transient: the disk did not give the bytes.

    """
    parsed = parse_folder_name(folder.name)
    if parsed is None:
        raise Corrupt(f"{folder.name} is not the name of an installed bundle")
    digest, variant = parsed
    with disk(f"verifying {folder.name}"):
        data = b"".join(_blocks(folder / MANIFEST_FILE, limit=MAX_BYTES))
        if digest_of(data) != digest:
            raise Corrupt(f"{folder.name}: its manifest hashes to {digest_of(data)}", code="manifest-mismatch")
        manifest = parse_manifest(data)
        files = manifest.files_of(variant)
        extra = {entry.name for entry in os.scandir(folder)} - {entry.path for entry in files} - {MANIFEST_FILE}
        if extra:
            raise Corrupt(f"{folder.name}: not part of the bundle: {', '.join(sorted(extra))}", code="extra-file")
        for entry in files:
            check_file(folder / entry.path, entry)
    return Installed(folder, digest, variant, manifest)


def installed(bundles: Path) -> dict[tuple[str, str], Path]:
    """The installed bundles by (digest, variant); not verified."""
    with disk(f"listing {bundles}"):
        if not bundles.is_dir():
            return {}
        found = ((parse_folder_name(entry.name), Path(entry.path)) for entry in os.scandir(bundles))
        return {parsed: path for parsed, path in found if parsed is not None}


def total(bundles: Path) -> int:
    """Bytes of all installed bundles."""
    return sum(_size(folder) for folder in installed(bundles).values())


def remove(folder: Path) -> None:
    """Remove an installed bundle; a crash in between never leaves part of it under its name.

    Raises:
        Transient: the disk is failing.

    """
    with disk(f"removing {folder.name}"), _staging(folder.parent) as grave:
        folder.rename(grave / folder.name)
        sync_folder(folder.parent)


def collect_bundles(bundles: Path, keep: Set[tuple[str, str]]) -> Collected:
    """Remove every installed bundle whose (digest, variant) is not in `keep`, and leftovers of crashes."""
    clear_staging(bundles)
    gone = {folder: _size(folder) for key, folder in installed(bundles).items() if key not in keep}
    for folder in gone:
        remove(folder)
    return Collected(len(gone), sum(gone.values()))


def clear_staging(bundles: Path) -> int:
    """Remove staging folders that no living process fills; returns how many."""
    count = 0
    with disk(f"clearing {bundles}"):
        if not bundles.is_dir():
            return 0
        for entry in list(os.scandir(bundles)):
            if not entry.name.startswith(STAGING):
                continue
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                lock = _lock(Path(entry.path))
                try:
                    shutil.rmtree(entry.path)
                    count += 1
                finally:
                    os.close(lock)
    return count


def settle(bundles: Path) -> None:
    """Make durable what a killed process may have installed, or removed, and never synced, since from now on it counts.

    Raises:
        Transient: the disk is failing.

    """
    with disk(f"settling {bundles}"):
        if bundles.is_dir():
            sync_folder(bundles)
            sync_folder(bundles.parent)


def _size(folder: Path) -> int:
    return sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(folder))


@contextlib.contextmanager
def _staging(bundles: Path) -> Iterator[Path]:
    """A new, locked folder beside the bundles; what is still under its name at the end is removed."""
    folder, lock = _claim(bundles)
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _claim(bundles: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=bundles))
        try:
            lock = _lock(folder)
        except (FileNotFoundError, BlockingIOError):
            continue  # a sweep took it for a leftover before it was locked
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            raise
        if folder.exists():
            return folder, lock
        os.close(lock)


def _lock(folder: Path) -> int:
    """A handle that holds the folder's lock; raises BlockingIOError where a living process holds it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    return handle


def _assemble(entry: File, folder: Path, store: Readable) -> None:
    _write(folder / entry.path, (block for chunk in entry.chunks for block in store.blocks(chunk.digest)))
    try:
        check_file(folder / entry.path, entry)  # read back: what was written is what is vouched for
    except Corrupt:
        for chunk in entry.chunks:
            b"".join(store.read(chunk.digest))  # a chunk that rotted goes, and says so
        raise


def _write(path: Path, blocks: Iterator[bytes]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        for block in blocks:
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def check_file(path: Path, entry: File) -> None:
    """Hold a file against its entry: a regular file of its own, of that size and hash.

    Raises:
        Corrupt: it is not; says what it is.

    """
    found, size = hashlib.sha256(), 0
    for block in _blocks(path, limit=entry.size):
        found.update(block)
        size += len(block)
    if size != entry.size or found.hexdigest() != entry.sha256:
        raise Corrupt(f"{path.parent.name}/{path.name}: {size} of {entry.size} B, hash {found.hexdigest()}")


def _blocks(path: Path, *, limit: int) -> Iterator[bytes]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Corrupt(f"{path.parent.name}/{path.name} is missing", code="missing-file") from error
    except OSError as error:
        if path.is_symlink():
            raise Corrupt(f"{path.parent.name}/{path.name} is a link", code="not-a-file") from error
        raise
    with os.fdopen(handle, "rb", buffering=0) as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise Corrupt(f"{path.parent.name}/{path.name} is not a file of its own", code="not-a-file")
        if found.st_size > limit:
            raise Corrupt(f"{path.parent.name}/{path.name} has {found.st_size} B, at most {limit}", code="too-long")
        while block := file.read(BLOCK):
            yield block
