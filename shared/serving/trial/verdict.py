"""What a trial is asked and what it finds: the wire between the sacrificial child and who started it."""

import msgspec

from shared.bundle.manifest import TensorSpec
from shared.protocol.reported import Isolation
from shared.serving.arrangement import ONNXRUNTIME

__all__ = ["Died", "Isolation", "Passed", "TrialLimits", "TrialRequest", "Verdict"]


class TrialLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one trial: address space in bytes beyond what the runtime needs, and seconds by the wall clock."""

    memory_bytes: int = 4 << 30
    seconds: float = 120.0


class TrialRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Load `variant` of the bundle in `folder` and replay its golden set; `measure` adds how long runs take.

    `manifest`: the JSON text of a manifest that is not in the folder, such as one made for a plain program. `runtime` and `precision`
    as of an arrangement.
    """

    folder: str
    variant: str
    manifest: str | None = None
    limits: TrialLimits = TrialLimits()
    measure: bool = False
    threads: int = 1
    runtime: str = ONNXRUNTIME
    precision: str = ""


class Passed(msgspec.Struct, frozen=True, kw_only=True, tag="passed"):
    """It runs. `measured` as `Variant.measured`; `inputs` and `outputs` are the program's own.

    `unrun`: why it was only looked at, where this machine cannot run it, or why no input could be made up for it.
    """

    isolation: Isolation
    measured: dict[str, float] = {}
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    unrun: str = ""


class Died(msgspec.Struct, frozen=True, kw_only=True, tag="died"):
    """It must not be loaded: `code` is `crashed`, `too-slow`, `too-large`, `golden-differs`, or that of a `Refused` or `Corrupt`.

    `field` names the file and the place in it, where that is known.
    """

    isolation: Isolation
    code: str
    message: str
    field: str | None = None
    differences: tuple[str, ...] = ()


Verdict = Passed | Died
