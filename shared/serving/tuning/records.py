"""The records of tuning runs on disk: one file, read whole and replaced whole.

Invariants: a crash leaves the old file or the new one; what cannot be read is moved aside and never read again, since a measurement can be
made again; two processes, an agent and a run by hand, may write: each reads before it writes, under one lock.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shared.io.durable import make_folder, sync_folder, write_durably
from shared.io.logs import Log
from shared.serving.decide.tuned import Record, kept_with

FILE = "tuning.json"
LOCK = "tuning.lock"
FORMAT = 1
MAX_KEPT = 256
MAX_BYTES = 16 << 20


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    """The file."""

    format: int = FORMAT
    records: tuple[Record, ...] = ()


class Records:
    """What a folder remembers. Every method blocks; any thread may call them."""

    def __init__(self, folder: Path, log: Log | None = None) -> None:
        """`folder` is the agent's state folder; nothing is made before something is written."""
        self._file = folder / FILE
        self._lock = folder / LOCK
        self._log = log

    def read(self) -> tuple[Record, ...]:
        """All of them, oldest first; none where there is no file, or none that can be read."""
        try:
            return self._read().records
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, RecursionError) as error:
            if self._log is not None:
                self._log.warning("the tuning records cannot be read", path=str(self._file), error=str(error))
            return ()

    def add(self, record: Record) -> None:
        """Remember `record` in the place of what asked the same.

        Raises:
            OSError: the disk is full or failing.

        """
        make_folder(self._file.parent)
        with self._locked():
            try:
                before = self._read().records
            except FileNotFoundError:
                before = ()
            except (ValueError, RecursionError) as error:
                before = ()
                self._put_aside(error)
            document = _Document(records=kept_with(before, record, most=MAX_KEPT))
            write_durably(self._file, msgspec.json.encode(document))

    def _read(self) -> _Document:
        with self._file.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} B")
        # msgspec's errors, and those of text that is not UTF-8, are ValueErrors.
        document = msgspec.json.decode(data, type=_Document)
        if document.format != FORMAT:
            raise ValueError(f"format {document.format}, only {FORMAT} is known")
        return document

    def _put_aside(self, error: Exception) -> None:
        number = 1
        while (aside := self._file.with_name(f"{FILE}.corrupt-{number}")).exists():
            number += 1
        self._file.rename(aside)
        sync_folder(self._file.parent)
        if self._log is not None:
            self._log.error("the tuning records were damaged and put aside", path=str(aside), error=str(error))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
