"""What this machine is to a measurement, and what can run programs on it."""

import importlib.metadata
import platform
from pathlib import Path

from shared.bundle.manifest import Variant
from shared.io.processor import COMPUTE_BF16, ROOT, cores, processor
from shared.serving.arrangement import ONNXRUNTIME, OPENVINO
from shared.serving.decide.tuned import Machine
from shared.serving.decide.ways import Program
from shared.serving.sessions.onnx import CPU
from shared.serving.sessions.open import EXACT, ONNX
from shared.serving.sessions.openvino import BF16


def machine_here(root: Path = ROOT) -> Machine:
    """The machine this runs on, as far as it decides how long a run takes. Blocks: reads files."""
    model, features = processor(root)
    return Machine(
        machine=platform.machine() or "unknown",
        model=model,
        features=features,
        cores=cores(root),
        runtimes={name: version for name in (ONNXRUNTIME, OPENVINO) if (version := version_of(name))},
    )


def programs_of(variant: Variant, machine: Machine, *, exact: bool = False) -> tuple[Program, ...]:
    """How `variant` can be run on `machine`, in the order of preference; not at all where nothing here runs it.

    `exact`: in no other precision than its own, as for a generator, which makes another text of the least rounding.
    """
    if variant.runtime not in ONNX or ONNXRUNTIME not in machine.runtimes:
        return ()
    if not set(variant.requirements.providers) <= set(CPU):
        # The process that measures has the processor alone.
        return ()
    found = [Program(variant=variant.name)]
    if OPENVINO in machine.runtimes:
        found.append(Program(variant=variant.name, runtime=OPENVINO))
        if not exact and variant.precision == EXACT and COMPUTE_BF16 & set(machine.features):
            found.append(Program(variant=variant.name, runtime=OPENVINO, precision=BF16))
    return tuple(found)


def version_of(name: str) -> str:
    """The version of an installed package; empty where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
