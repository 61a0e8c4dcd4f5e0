"""Which session runs a program file here: by the variant's runtime, and for ONNX programs by the arrangement's."""

from collections.abc import Callable
from pathlib import Path

import onnxruntime

from shared.bundle.manifest import Variant
from shared.protocol.errors import Refusal, Refused
from shared.serving.arrangement import ONNXRUNTIME, OPENVINO, Arrangement
from shared.serving.sessions.onnx import CPU, OnnxSession
from shared.serving.sessions.openvino import OpenVinoSession
from shared.serving.sessions.session import Session

Sessions = Callable[[Path, Variant, Arrangement], Session]
"""Opens the session of a program file: the variant it is of, and how it is to run here."""
ONNX = ("onnx", "onnxruntime")
"""Runtimes of variants whose program is an ONNX file; the arrangement says what runs it."""
EXACT = "fp32"
"""The precision of a variant that may be computed in another one."""


def open_session(path: Path, variant: Variant, arrangement: Arrangement) -> Session:
    """The session of a program file; a program for an execution provider is run by ONNX Runtime whatever the arrangement says.

    Raises:
        Refused: a runtime, a precision, or an execution provider of ONNX Runtime, that is not here.

    """
    if variant.runtime not in ONNX:
        raise _refused("unknown runtime", "runtime", variant.runtime, "onnx")
    providers = tuple(dict.fromkeys((*variant.requirements.providers, *CPU)))
    if arrangement.runtime == OPENVINO and providers == CPU:
        if arrangement.precision and variant.precision != EXACT:
            # What was rounded once and is rounded again is no longer what its golden set was made from.
            raise _refused(
                f"variant {variant.name} is {variant.precision}, and only {EXACT} may be computed in another precision",
                "arrangement.precision",
                arrangement.precision,
                "none",
            )
        return OpenVinoSession(
            path, threads=arrangement.threads, lanes=arrangement.lanes, precision=arrangement.precision
        )
    if arrangement.runtime not in (ONNXRUNTIME, OPENVINO):
        raise _refused(
            "it does not run ONNX programs", "arrangement.runtime", arrangement.runtime, f"{ONNXRUNTIME}, {OPENVINO}"
        )
    if arrangement.runtime == ONNXRUNTIME and arrangement.precision:
        raise _refused(
            "ONNX Runtime computes in the program's own precision",
            "arrangement.precision",
            arrangement.precision,
            "none",
        )
    available = onnxruntime.get_available_providers()
    if missing := [name for name in variant.requirements.providers if name not in available]:
        # ONNX Runtime would take the processor without a word.
        raise _refused(
            "no such execution provider here", "requirements.providers", ", ".join(missing), ", ".join(available)
        )
    return OnnxSession(path, threads=arrangement.threads, providers=providers, spinning=arrangement.spinning)


def _refused(message: str, field: str, value: str, allowed: str) -> Refused:
    return Refused(message, kind=Refusal.UNSUPPORTED, field=field, value=value, allowed=allowed)
