"""What a replica can run: ONNX Runtime with the execution providers it has, and torch programs where torch is installed."""

from importlib.util import find_spec
from pathlib import Path

import msgspec
import onnxruntime
from msgspec.structs import replace

from cloud_core.models.inspect_torch import RUNTIME as TORCH
from shared.bundle.manifest import TensorSpec, Variant
from shared.protocol.errors import Corrupt, Refusal, Refused
from shared.serving import arrangement as arrangements
from shared.serving.arrangement import Arrangement
from shared.serving.decide.batching import GPU, Budget
from shared.serving.sessions import open as sessions
from shared.serving.sessions.onnx import CPU
from shared.serving.sessions.open import EXACT
from shared.serving.sessions.session import Session

__all__ = [
    "TORCH",
    "Signature",
    "budget_here",
    "offers_here",
    "open_session",
    "read_signature",
    "signature_path",
    "suited",
]


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """Of a torch program: inputs in the order it takes them, outputs in the order it gives them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def signature_path(program: Path) -> Path:
    """The file beside a torch program that holds its signature."""
    return program.with_name(f"{program.name}.json")


def read_signature(program: Path) -> Signature:
    """The signature of a torch program.

    Raises:
        Corrupt: there is none that can be read.

    """
    path = signature_path(program)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Signature)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{path.name} is not a torch program's signature: {error}") from error


def offers_here() -> frozenset[str]:
    """Runtimes and execution providers, as variants name them."""
    torch = {TORCH} if find_spec("torch") is not None else set()
    return frozenset({"onnx", "onnxruntime", *onnxruntime.get_available_providers(), *torch})


def budget_here(devices: Path = Path("/proc/driver/nvidia/gpus")) -> Budget:
    """The bounds of a batch where nobody chose others: a graphics card's where there is one. `devices`: a folder of those there are."""
    return GPU if devices.is_dir() and any(devices.iterdir()) else Budget()


def open_session(path: Path, variant: Variant, arrangement: Arrangement) -> Session:
    """The session of a program file; torch is loaded when the first torch program is.

    Raises:
        Refused: a runtime or an execution provider that is not here.

    """
    if variant.runtime != TORCH:
        return sessions.open_session(path, variant, arrangement)
    if find_spec("torch") is None:
        raise Refused(
            f"variant {variant.name} needs torch, which this replica does not have",
            kind=Refusal.UNSUPPORTED,
            field="runtime",
            value=TORCH,
            allowed="onnx, or torch installed beside cloud-core",
        )
    from cloud_core.replicas.torch_program import TorchProgram  # noqa: PLC0415

    return TorchProgram(path, threads=arrangement.threads, precision=arrangement.precision or variant.precision)


def suited(wanted: Arrangement, variant: Variant, *, exact: bool = False) -> Arrangement:
    """`wanted`, which is said of all models of a replica, as far as it can be said of `variant`.

    `exact`: in no other precision than its own, as for a generator, which makes another text of the least rounding: its answers
    would depend on their batch.
    """
    if exact:
        wanted = replace(wanted, precision="")
    if variant.runtime == TORCH:
        return replace(wanted, runtime=arrangements.TORCH)
    openvino = wanted.runtime == arrangements.OPENVINO and set(variant.requirements.providers) <= set(CPU)
    exact = openvino and variant.precision == EXACT
    return replace(
        wanted,
        runtime=arrangements.OPENVINO if openvino else arrangements.ONNXRUNTIME,
        precision=wanted.precision if exact else "",
    )
