"""What a trial is asked and what it finds: the wire between the sacrificial child and who started it."""

from enum import StrEnum

import msgspec


class Isolation(StrEnum):
    """What keeps the child off the network."""

    NAMESPACE = "namespace"
    SECCOMP = "seccomp"
    NONE = "none"


class TrialLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one trial: address space in bytes beyond what the runtime needs, and seconds by the wall clock."""

    memory_bytes: int = 4 << 30
    seconds: float = 120.0


class TrialRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Load `variant` of the bundle in `folder` and replay its golden set; `measure` adds how long runs take.

    `manifest`: the JSON text of a manifest that is not in the folder, such as one made for a plain program.
    """

    folder: str
    variant: str
    manifest: str | None = None
    limits: TrialLimits = TrialLimits()
    measure: bool = False
    threads: int = 1


class Passed(msgspec.Struct, frozen=True, kw_only=True, tag="passed"):
    """It runs. `measured` as `Variant.measured`."""

    isolation: Isolation
    measured: dict[str, float] = {}


class Died(msgspec.Struct, frozen=True, kw_only=True, tag="died"):
    """It must not be loaded: `code` is `crashed`, `too-slow`, `too-large`, `golden-differs`, or that of a `Refused` or `Corrupt`."""

    isolation: Isolation
    code: str
    message: str
    differences: tuple[str, ...] = ()


Verdict = Passed | Died
