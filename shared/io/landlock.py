"""Which files a process and all it starts may reach, for good: the kernel's Landlock (landlock(7)), no privilege needed.

`wall_in` leaves everything readable but what is `hidden`, and only `writable` folders can be changed. Landlock knows no "all but":
what lies beside a hidden path on the way to it is allowed entry by entry, and what is made there later is not.
"""

import contextlib
import ctypes
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
"""System calls; the same numbers on every architecture."""
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_CHANGES = 0b1_1111_1111_0000 | _WRITE_FILE  # bits 4 to 12: remove and make entries of each kind
_REFER, _TRUNCATE = 1 << 13, 1 << 14  # since versions 2 and 3
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
"""Rights a rule on a file, not a folder, may hold."""
_SCOPED = 0b11  # abstract Unix sockets and signals of processes outside, since version 6
_NO_NEW_PRIVS = 38  # prctl(2)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def wall_in(*, hidden: Collection[Path], writable: Collection[Path]) -> bool:
    """Leave this process what the module says; False where the kernel has no Landlock, and nothing is changed then.

    Call it while there is one thread: others keep what they had.

    Args:
        hidden: folders and files that cannot be read; a folder's entries are still listed.
        writable: folders and files that may be changed and read, also inside a hidden one.

    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    if version < 1:
        return False
    changes = _CHANGES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    reads = _EXECUTE | _READ_FILE | _READ_DIR
    ruleset = _Ruleset(changes | reads, 0, _SCOPED if version >= 6 else 0)
    # An older kernel knows a shorter struct, and takes a longer one only where the rest is zero.
    handle = libc.syscall(_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(ctypes.sizeof(ruleset)), ctypes.c_uint32(0))
    if handle < 0:
        return False
    try:
        _allow(libc, handle, Path("/"), _READ_DIR)
        for path in beside({path.resolve() for path in hidden}):
            _allow(libc, handle, path, reads)
        for path in writable:
            _allow(libc, handle, path, reads | changes)
        libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
        restricted: int = libc.syscall(_RESTRICT, handle, ctypes.c_uint32(0))
        return restricted == 0
    finally:
        os.close(handle)


def beside(hidden: Collection[Path], folder: Path = Path("/")) -> Iterator[Path]:
    """The entries of `folder`, of any depth, that together are everything but `hidden` (absolute paths without links)."""
    if folder in hidden:
        return
    if not any(folder in path.parents for path in hidden):
        yield folder
        return
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            # A link may lead into what is hidden; what it leads to elsewhere is allowed by its own name.
            if not entry.is_symlink():
                yield from beside(hidden, entry)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    """Allow `rights` below a path; one that is gone or closed to us is left closed."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(handle).st_mode):
                rights &= _OF_FILES
            rule = _Beneath(rights, handle)
            libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0))
        finally:
            os.close(handle)
