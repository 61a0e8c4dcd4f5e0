"""Writing so that a power cut leaves the old content or the new, never part of either.

A rename without fsync of file and folder passes naive crash tests and still loses data after an unrelated fsync, so every
store goes through here: write, fsync the file, rename, fsync the folder.
"""

import fcntl
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.protocol.errors import Refusal, Refused


def sync_folder(folder: Path) -> None:
    """Make the folder's own entries (creations, renames) durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`, durably and atomically; missing parent folders are made."""
    make_folder(path.parent)
    # A name of its own for each writer: two threads of one process may replace one file at the same moment.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    staged = Path(name)
    try:
        os.fchmod(handle, mode)
        with open(handle, "wb", closefd=False) as file:
            file.write(data)
            file.flush()
        os.fsync(handle)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    os.replace(staged, path)  # noqa: PTH105
    sync_folder(path.parent)


def make_folder(folder: Path, *, mode: int = 0o755) -> None:
    """Make `folder` and its missing parents, each made durable in its own parent."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=mode, exist_ok=True)
    sync_folder(folder.parent)


def folder_of(setting: str, folder: Path, *, mode: int = 0o755) -> Path:
    """The folder a setting names, made where it is missing.

    Raises:
        Refused: it cannot be made; names the setting.

    """
    try:
        make_folder(folder, mode=mode)
    except OSError as error:
        raise _unusable(setting, folder, error) from error
    return folder


def _unusable(setting: str, folder: Path, error: OSError) -> Refused:
    text = f"the folder cannot be used: {error.strerror}"
    return Refused(text, field=setting, value=str(folder), allowed="a folder this process may write to")


class FolderLock:
    """One process per folder: an advisory lock the kernel gives back when the process ends, however it ends."""

    def __init__(self, folder: Path, *, field: str) -> None:
        """`field` is the setting that names the folder, for the refusal."""
        self._folder = folder
        self._field = field
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            Refused: another process holds it, or the folder cannot be had.

        """
        folder_of(self._field, self._folder)
        try:
            handle = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unusable(self._field, self._folder, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip()
            os.close(handle)
            raise Refused(
                f"the folder is in use by process {holder or '?'}",
                kind=Refusal.CONFLICT,
                field=self._field,
                value=str(self._folder),
                allowed="a folder no other process uses",
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        self._handle = handle

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
