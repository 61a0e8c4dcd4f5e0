"""A memory control group of either version for a test's child, under this process's own, and gone afterwards."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/sys/fs/cgroup")


class Group(NamedTuple):
    """A child that writes its own process id into `procs` is held to the limit."""

    folder: Path
    version: int

    @property
    def procs(self) -> Path:
        return self.folder / "cgroup.procs"

    @property
    def oom_kills(self) -> int:
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        words = dict(line.split() for line in (self.folder / name).read_text().splitlines())
        return int(words["oom_kill"])

    @property
    def most(self) -> int:
        """Bytes that were ever used at once; page cache included."""
        name = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        return int((self.folder / name).read_text())


class NoGroup(Exception):
    """None can be made here; says why."""


@contextlib.contextmanager
def limited(bytes_: int) -> Iterator[Group]:
    """A group of `bytes_` bytes, swap included.

    Raises:
        NoGroup: this machine does not let us.

    """
    reasons = []
    for version, parent in candidates():
        folder = parent / f"tideline-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError as error:
            reasons.append(str(error))
            continue
        group = Group(folder, version)
        try:
            bound(group, bytes_)
        except OSError as error:
            folder.rmdir()
            reasons.append(str(error))
            continue
        try:
            yield group
        finally:
            removed(folder)
        return
    raise NoGroup("; ".join(reasons) or "no memory controller")


def candidates() -> list[tuple[int, Path]]:
    """Where a group could be made: under our own group, else where the controller is mounted."""
    found: list[tuple[int, Path]] = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            found += [(1, ROOT / "memory" / path.lstrip("/")), (1, ROOT / "memory")]
        elif controllers == "" and (ROOT / "cgroup.controllers").exists():
            found += [(2, ROOT / path.lstrip("/")), (2, ROOT)]
    return found


def bound(group: Group, bytes_: int) -> None:
    if group.version == 1:
        (group.folder / "memory.limit_in_bytes").write_text(str(bytes_))
        with contextlib.suppress(OSError):  # where the kernel counts no swap
            (group.folder / "memory.memsw.limit_in_bytes").write_text(str(bytes_))
        return
    if not (group.folder / "memory.max").exists():
        (group.folder.parent / "cgroup.subtree_control").write_text("+memory")
    (group.folder / "memory.max").write_text(str(bytes_))
    with contextlib.suppress(OSError):
        (group.folder / "memory.swap.max").write_text("0")


def removed(folder: Path) -> None:
    """A group can be removed a moment after its last process has ended."""
    until = time.monotonic() + 10.0
    while True:
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return
