"""Losses that can be counted when the disk is full: samples the spool could not take, and runs that ended without a goodbye.

The file's bytes are there from the start and are only overwritten, within one sector; a full disk has nothing to refuse.
"""

import os
import struct
from pathlib import Path

from shared.io.durable import write_durably

_FORM = struct.Struct(">QQQQ")
"""Samples not taken, runs that crashed, whether a run is under way, and what these and it add up to: all ones."""
_ALL = 2**64 - 1


class Ledger:
    """Owner of the file; blocks on the disk. The counts only rise, over all runs."""

    def __init__(self, path: Path) -> None:
        """Open the ledger and count a run that is still noted as under way as crashed; a damaged ledger begins at 0.

        Raises:
            OSError: it cannot be made.

        """
        self._path = path
        found = self._read()
        self.sound = found is not None
        self.storage, self.crashes, running = found or (0, 0, 0)
        self.crashes += running
        if found is None:
            write_durably(path, self._form(running=1))
        else:
            self._write(running=1)

    def not_taken(self) -> None:
        """The spool could not take one more sample."""
        self.storage += 1
        self._write(running=1)

    def goodbye(self) -> None:
        """The run ends in order."""
        self._write(running=0)

    def _write(self, *, running: int) -> None:
        """In place. Where even this cannot be written, the counts hold until the process ends."""
        try:
            handle = os.open(self._path, os.O_WRONLY)
            try:
                os.pwrite(handle, self._form(running=running), 0)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError:
            return

    def _form(self, *, running: int) -> bytes:
        return _FORM.pack(self.storage, self.crashes, running, _ALL - self.storage - self.crashes - running)

    def _read(self) -> tuple[int, int, int] | None:
        try:
            storage, crashes, running, rest = _FORM.unpack(self._path.read_bytes())
        except (OSError, struct.error):
            return None
        return (storage, crashes, running) if storage + crashes + running + rest == _ALL and running <= 1 else None
