"""The processor as this process may use it: its model, the features that decide what runs well on it, and how many cores of it."""

import contextlib
import os
import platform
from pathlib import Path
from typing import NamedTuple

FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "bf16",
    "i8mm",
    "sve",
)
"""CPU features that decide which variant, runtime and precision runs well."""
COMPUTE_BF16 = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
"""Features with which bf16 is computed and not imitated."""
ROOT = Path("/")


class Processor(NamedTuple):
    """Its model's name and those of `FEATURES` that it has; empty where the system does not tell."""

    model: str
    features: tuple[str, ...]


def processor(root: Path = ROOT) -> Processor:
    """What Linux tells of the first core."""
    try:
        text = (root / "proc/cpuinfo").read_text()
    except OSError:
        return Processor(platform.processor(), ())
    facts = {
        name.strip(): value.strip()
        for line in text.split("\n\n", 1)[0].splitlines()
        for name, _, value in (line.partition(":"),)
    }
    known = set((facts.get("flags") or facts.get("Features") or "").split())
    return Processor(facts.get("model name", ""), tuple(name for name in FEATURES if name in known))


def cores(root: Path = ROOT) -> int:
    """Cores this process may use: those it may run on, and no more than its control group's quota pays for in full, one at least.

    More threads than the quota pays for are stopped for the rest of every period, all of them at once.
    """
    return max(1, min(len(os.sched_getaffinity(0)), *_quotas(root)))


def _quotas(root: Path) -> list[int]:
    """Whole cores each group from this process's own up to the root is allowed, where it is limited."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = [os.cpu_count() or 1]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, version = root / "sys/fs/cgroup", 2
        elif "cpu" in controllers.split(","):
            top, version = root / "sys/fs/cgroup/cpu", 1
        else:
            continue
        group = top / path.lstrip("/")
        # A container sees its own group as the top one, whatever the path says.
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                found.append(_quota(folder, version))
    return found


def _quota(folder: Path, version: int) -> int:
    if version == 2:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    else:
        quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
        period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
    # `max`, and in the older version -1, is no limit.
    if int(quota) <= 0:
        raise ValueError(quota)
    return int(quota) // int(period)
