"""Is this process ready to answer? Pure: a snapshot in, a verdict with reasons out.

Not ready: memory above 95 %, less disk than `DISK_FLOOR`, a failed check of the program, an active version that is not
ready, a model none of whose versions is ready, or no model at all where one is needed. A version that fails beside one that
answers is named and changes nothing.
"""

from collections.abc import Sequence

import msgspec

MEMORY_CEILING = 0.95
DISK_FLOOR = 64 * 1024 * 1024
READY = "ready"


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One model version: `state` in the words of `ModelState`; `resident`: its program is in memory, None where nobody knows."""

    name: str
    version: str
    state: str
    active: bool = False
    reason: str = ""
    resident: bool | None = None


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """Something else a program needs in order to be ready."""

    name: str
    ok: bool
    detail: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`reasons` is empty where it is ready."""

    ready: bool
    reasons: tuple[str, ...]
    models: tuple[Version, ...]


def judge(
    versions: Sequence[Version],
    checks: Sequence[Check],
    *,
    memory: float,
    disk_free: int | None,
    needs_model: bool,
) -> Verdict:
    """The verdict; `memory` is the used fraction of the machine's, `disk_free` in bytes or None where no disk is used."""
    reasons: list[str] = []
    if memory > MEMORY_CEILING:
        reasons.append(f"memory {memory:.0%} used, at most {MEMORY_CEILING:.0%}")
    if disk_free is not None and disk_free < DISK_FLOOR:
        reasons.append(f"disk {disk_free} bytes free, at least {DISK_FLOOR}")
    reasons += [f"{check.name}: {check.detail or 'not ready'}" for check in checks if not check.ok]
    if needs_model and not versions:
        reasons.append("no model is loaded")
    for name in sorted({version.name for version in versions}):
        own = [version for version in versions if version.name == name]
        waiting = [version for version in own if version.active and version.state != READY]
        if not waiting and not any(version.state == READY for version in own):
            waiting = own
        reasons += [
            f"{version.name}@{version.version} {version.state}" + (f": {version.reason}" if version.reason else "")
            for version in waiting
        ]
    return Verdict(ready=not reasons, reasons=tuple(reasons), models=tuple(versions))
