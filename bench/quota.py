"""A share of one core for a process, held by the kernel: a control group with a CPU quota, version 1 or 2, whichever can be written.

The period is 20 ms, not the kernel's 100: a process that is through with its share waits for the next period, its event loop
too, and such a wait should be short beside what a request takes. The share is there whenever it is wanted: the group outweighs
whatever else runs. Children of a held process are held with it.
"""

import contextlib
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

PERIOD_US = 20_000
_MOST = {1: ("cpu.shares", "262144"), 2: ("cpu.weight", "10000")}
"""By version: the largest weight there is."""
_MOUNTS, _OWN = Path("/proc/self/mountinfo"), Path("/proc/self/cgroup")


class NoQuotaError(Exception):
    """This machine lets us make no group with a quota; says why."""


class _Tree(NamedTuple):
    """Where groups can be made, and of which version."""

    folder: Path
    version: int


class Quota:
    """One group, there until the block ends; processes that are in it then go back to where groups are made."""

    def __init__(self, name: str, share: float) -> None:
        """`share` of one core.

        Raises:
            NoQuotaError: no control group can be written here.

        """
        reasons = []
        for tree in _trees():
            try:
                self._make(tree, name, share)
            except OSError as error:
                reasons.append(f"{tree.folder}: {error.strerror}")
            else:
                return
        raise NoQuotaError("; ".join(reasons) or "no control groups with the cpu controller are mounted")

    def _make(self, tree: _Tree, name: str, share: float) -> None:
        if tree.version == 2:
            (tree.folder / "cgroup.subtree_control").write_text("+cpu")
        self._tree, self.folder = tree, Path(tempfile.mkdtemp(prefix=f"tideline-{name}-", dir=tree.folder))
        file, most = _MOST[tree.version]
        try:
            (self.folder / file).write_text(most)
            self.set(share)
        except OSError:
            self.folder.rmdir()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pid in (self.folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (self._tree.folder / "cgroup.procs").write_text(pid)
        self.folder.rmdir()

    def set(self, share: float) -> None:
        """Change the share."""
        quota = round(share * PERIOD_US)
        if self._tree.version == 2:
            (self.folder / "cpu.max").write_text(f"{quota} {PERIOD_US}")
            return
        (self.folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (self.folder / "cpu.cfs_quota_us").write_text(str(quota))

    def hold(self, pid: int) -> None:
        """Put a process with all its threads into the group."""
        (self.folder / "cgroup.procs").write_text(str(pid))


def _trees() -> list[_Tree]:
    """Every mounted tree with the cpu controller: the group this process is in, where it can be seen."""
    found = []
    own = dict(_own(line) for line in _OWN.read_text().splitlines())
    for line in _MOUNTS.read_text().splitlines():
        before, _, after = line.partition(" - ")
        mounted, (kind, _, options) = Path(before.split()[4]), after.split(" ", 2)
        if kind == "cgroup" and "cpu" in options.split(","):
            found.append(_Tree(_within(mounted, own.get("cpu", "/")), 1))
        elif kind == "cgroup2" and "cpu" in (mounted / "cgroup.controllers").read_text().split():
            found.append(_Tree(_within(mounted, own.get("", "/")), 2))
    return found


def _own(line: str) -> tuple[str, str]:
    _, controllers, path = line.split(":", 2)
    return "cpu" if "cpu" in controllers.split(",") else controllers, path


def _within(mounted: Path, own: str) -> Path:
    folder = Path(os.path.normpath(f"{mounted}/{own}"))
    return folder if folder.is_dir() else mounted
