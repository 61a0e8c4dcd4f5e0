"""One tuning run at a time on a machine, whoever starts it: two would measure each other."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def turn(folder: Path | None = None) -> Iterator[bool]:
    """Whether it is this process's turn, for as long as the block lasts; False where another one has it.

    The kernel gives the turn back when its process ends. Where no file can be locked in the folder of temporary files, everybody
    is let in: a run that is disturbed is better than none.
    """
    file = (folder or Path(tempfile.gettempdir())) / f"tideline-tuning-{os.getuid()}.lock"
    try:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield True
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        yield False
        return
    try:
        yield True
    finally:
        os.close(handle)
