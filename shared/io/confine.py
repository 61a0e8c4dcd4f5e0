"""Limits a process puts on itself, for good, before it touches bytes it does not trust.

`detach` comes first, while the process has one thread: it ends with its parent, gains no privileges, reaches no network, writes
no files. `bound` comes when its libraries are in memory: what it may take from then on. Nothing here can be undone.
"""

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Collection
from pathlib import Path

from shared.io.confine_syscalls import refuse_calls
from shared.io.landlock import wall_in
from shared.protocol.reported import Isolation

OPEN_FILES = 256
NICE = 10
"""What serves comes first."""
_PDEATHSIG, _NO_NEW_PRIVS = 1, 38  # prctl(2)
_NEWUSER, _NEWNET = 0x10000000, 0x40000000  # unshare(2)
_CAPABILITY_VERSION = 0x20080522
_READ_SEARCH = 1 << 2
"""CAP_DAC_READ_SEARCH stays where it was held: a model may lie in a folder that only root can read."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def detach(*, parent: int, ways: Collection[Isolation] = tuple(Isolation)) -> Isolation:
    """Cut this process off; what keeps it from the network is returned. The process ends at once where `parent` is gone.

    Args:
        parent: process id of who started this one.
        ways: what may be tried against the network; the best one that works is told.

    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    # When memory runs out the kernel takes this process and not the one that serves.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with contextlib.suppress(OSError):
        os.nice(NICE)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    # Nothing can be written, removed or renamed either, where the kernel can see to that.
    wall_in(hidden=(), writable=())
    # Alone where the process may; else within a user namespace, which anybody may make where the kernel lets them.
    apart = Isolation.NAMESPACE in ways and any(libc.unshare(flags) == 0 for flags in (_NEWNET, _NEWUSER | _NEWNET))
    _drop_capabilities(libc)
    # In a namespace too: it holds no network, but the file system's sockets and other processes are still in reach.
    filtered = Isolation.SECCOMP in ways and refuse_calls(libc)
    return Isolation.NAMESPACE if apart else Isolation.SECCOMP if filtered else Isolation.NONE


def bound(*, memory_bytes: int, cpu_seconds: int) -> None:
    """From now on: so much address space more than is in use, and so much processor time (SIGXCPU, then SIGKILL)."""
    _limit(resource.RLIMIT_AS, address_space() + memory_bytes)
    _limit(resource.RLIMIT_CPU, cpu_seconds, last=cpu_seconds + 1)


def address_space() -> int:
    """Bytes of address space this process has."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def memory_left(root: Path = Path("/")) -> int:
    """Bytes of memory that may still be taken here: by the machine, and by this process's control group of either version.

    Files in the page cache count as free: the kernel gives them up before it ends a process.
    """
    lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    left = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder, most, used = "sys/fs/cgroup", "memory.max", "memory.current"
        elif controllers == "memory":
            folder, most, used = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = root / folder / path.lstrip("/")
        # `max` where there is no limit; and a machine's root group has no such files.
        with contextlib.suppress(OSError, ValueError):
            free = int((group / most).read_text(encoding="ascii")) - int((group / used).read_text(encoding="ascii"))
            stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
            cached = int(stat.get("inactive_file", "0")) + int(stat.get("active_file", "0"))
            left = min(left, max(0, free + cached))
    return left


def _limit(which: int, value: int, *, last: int | None = None) -> None:
    """Lower a limit; one that is lower already stays."""
    _, hard = resource.getrlimit(which)
    most = value if last is None else last
    if hard != resource.RLIM_INFINITY:
        value, most = min(value, hard), min(most, hard)
    resource.setrlimit(which, (value, most))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    header, held = _Header(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(ctypes.byref(header), held) != 0:
        return
    for i, value in enumerate(held):
        held[i] = value & _READ_SEARCH if i < 2 else 0
    libc.capset(ctypes.byref(header), held)
