"""Memory of this process: what it may have, what it has, and how freed memory really goes back to the kernel.

The C library keeps what is freed for later. glibc gives it back when asked to (`malloc_trim`), and keeps blocks above a threshold
apart so that they go back at once (`mallopt`); another C library has neither, and `Heap.trims` says so.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # mallopt(3)
_APART = 1 << 20
"""While a program is loaded, blocks of this size and more go back the moment they are freed."""
_SETTLED = 32 << 20
"""At other times only larger ones do: where glibc's own adaptation ends. Every batch would fault its pages in anew otherwise
(measured: 9,000 faults a run of [32, 128] tokens on a small encoder at 1 MiB, 80 here)."""


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes this process may have: the machine's, or less where a control group of either version says so, its ancestors included."""
    lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    limit = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif controllers == "memory":
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        # In a container the path is the host's, and only the group's own folder is there: the walk ends at it all the same.
        for folder in (group, *group.parents):
            # `max` where there is no limit; a machine's root group has no such file.
            with contextlib.suppress(OSError, ValueError):
                limit = min(limit, int((folder / name).read_text(encoding="ascii")))
            if folder == top:
                break
    return limit


class Heap:
    """The C library's heap, and the process's resident memory. Any thread."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self._trim = getattr(libc, "malloc_trim", None)
        self._option = getattr(libc, "mallopt", None) if self._trim is not None else None
        self._process = psutil.Process()

    @property
    def trims(self) -> bool:
        """Whether freed memory can be given back here."""
        return self._trim is not None

    def resident(self) -> int:
        """Bytes of memory this process has."""
        resident: int = self._process.memory_info().rss
        return resident

    def trim(self) -> None:
        """Give freed memory back; milliseconds."""
        if self._trim is not None:
            self._trim(0)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """For the block, what a load frees again on its way goes back at once: its peak is what fails under a limit."""
        if self._option is None:
            yield
            return
        self._option(_MMAP_THRESHOLD, _APART)
        try:
            yield
        finally:
            self._option(_MMAP_THRESHOLD, _SETTLED)
            # As glibc adapts it with the other: else every free at the heap's end shrinks it.
            self._option(_TRIM_THRESHOLD, 2 * _SETTLED)
