"""OpenVINO on the processor, for ONNX programs: `f32` as it stands, or computed in bf16.

What differs from ONNX Runtime, and what is done about it here:

* its package reports every import to its maker; the part that does is kept from being imported;
* it takes arrays that do not fit the program, by converting or reading past them: they are judged before it sees them;
* it computes integers in 32 bits and FP64 in FP32 without a word: what would be lost is refused;
* it prepares itself anew for every shape and keeps what it prepared: how much it keeps is bounded;
* an index out of range reads 0, and NaN does not survive every operator; neither is an error to it.
"""

import sys
import threading
from collections.abc import Collection, Sequence
from copy import copy
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from shared.bundle.manifest import TensorSpec
from shared.protocol.errors import Corrupt, Refusal, Refused, TidelineError, Transient, Unavailable
from shared.serving.answer import Array
from shared.serving.sessions.datatypes import NUMPY
from shared.serving.sessions.session import Feeds, Outputs
from shared.serving.sessions.signature import read_signature

BF16 = "bf16"
PRECISIONS = ("", BF16)
DATATYPES = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "f32": "FP32",
}
"""What it computes without loss, int64 as far as it fits into 32 bits."""
PREPARED = 256
"""Operators it keeps prepared for a shape, over all lanes: those of some 100 shapes of an encoder."""
_LEAST, _MOST = np.iinfo(np.int32).min, np.iinfo(np.int32).max


class OpenVinoSession:
    """One ONNX program for `lanes` runs at once, each on `threads` cores."""

    def __init__(self, path: Path, *, threads: int, lanes: int = 1, precision: str = "") -> None:
        self._path = path
        self._threads = threads
        self._lanes = lanes
        self._precision = precision
        self._compiled: Any = None
        self._request: Any = None
        self._lock = threading.Lock()
        self._interrupted = False
        self._inputs: tuple[TensorSpec, ...] = ()
        self._outputs: tuple[TensorSpec, ...] = ()
        self._dimensions: dict[str, tuple[str, ...]] = {}

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The graph's inputs, once loaded."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The graph's outputs, once loaded."""
        return self._outputs

    def load(self) -> None:
        """Read and compile the graph; a sibling has it already.

        Raises:
            Refused: a precision this processor lacks, or a program that OpenVINO does not run as it stands.
            Corrupt: not a program.

        """
        if self._compiled is not None:
            return
        signature = read_signature(self._path)
        openvino = imported()
        core = openvino.Core()
        hint = self._hint(core)
        try:
            # By name: left to itself it would try every format it knows on a stranger's bytes.
            frontend = openvino.frontend.FrontEndManager().load_by_framework("onnx")
            graph = frontend.convert(frontend.load(str(self._path)))
            compiled = core.compile_model(graph, "CPU", {**self._settings(), "INFERENCE_PRECISION_HINT": hint})
        except Exception as error:
            raise self._unloadable(error) from error
        self._inputs = self._specs(signature.inputs, compiled.inputs)
        self._outputs = self._specs(signature.outputs, compiled.outputs)
        self._dimensions = signature.inputs
        self._check_names()
        self._request = compiled.create_infer_request()
        self._compiled = compiled

    def run(self, feeds: Feeds) -> Outputs:
        """The outputs of one run, by name."""
        request = self._request
        if request is None:
            raise Transient("the session is closed", why=Unavailable.NOT_READY)
        self._check(feeds)
        try:
            self._start(request, feeds)
            request.wait()
            # Copies: the next run writes where these are.
            return {spec.name: request.get_output_tensor(i).data.copy() for i, spec in enumerate(self._outputs)}
        except TidelineError:
            raise
        except Exception as error:
            raise self._explained(error) from error

    def sibling(self) -> Self:
        """Another lane: a request of its own over the same compiled graph, which has a stream for each lane."""
        other = copy(self)
        other._request = None if self._compiled is None else self._compiled.create_infer_request()  # noqa: SLF001 - its own kind
        other._lock = threading.Lock()  # noqa: SLF001
        other._interrupted = False  # noqa: SLF001
        return other

    def interrupt(self) -> None:
        """End a run in progress between two of its operators, and every later one, until `resume`."""
        with self._lock:
            self._interrupted = True
            if self._request is not None:
                self._request.cancel()

    def resume(self) -> None:
        """Let runs run again."""
        self._interrupted = False

    def close(self) -> None:
        """Give the graph's memory and threads back; the last of its siblings frees them."""
        with self._lock:
            self._request = self._compiled = None

    def _start(self, request: Any, feeds: Feeds) -> None:
        with self._lock:
            # One step with the look at the flag: an interruption comes before, or meets a run it can cancel.
            if self._interrupted:
                raise _ended()
            request.start_async({spec.name: feeds[spec.name] for spec in self._inputs}, share_inputs=True)

    def _hint(self, core: Any) -> str:
        if self._precision not in PRECISIONS:
            raise _refused("OpenVINO has no such precision here", "precision", self._precision, "bf16, or none for f32")
        if self._precision == BF16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise _refused("this processor does not compute in bf16", "precision", BF16, "none, for f32")
        return "bf16" if self._precision == BF16 else "f32"

    def _settings(self) -> dict[str, object]:
        return {
            "NUM_STREAMS": self._lanes,
            "INFERENCE_NUM_THREADS": self._lanes * self._threads,
            # Other models, and other processes, are on these cores too.
            "ENABLE_CPU_PINNING": False,
            "EXECUTION_MODE_HINT": "ACCURACY",
            # It would quantize what goes into a product whose weights are quantized.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
            "CPU_RUNTIME_CACHE_CAPACITY": max(64, PREPARED // self._lanes),
        }

    def _specs(self, names: Collection[str], ports: Sequence[Any]) -> tuple[TensorSpec, ...]:
        """The file's names for what OpenVINO made of it, which may have several of its own for one tensor."""
        if len(names) != len(ports) or not all(
            name in port.get_names() for name, port in zip(names, ports, strict=True)
        ):
            raise self._unsuitable("it makes other inputs or outputs of it than its file names")
        return tuple(self._spec(name, port) for name, port in zip(names, ports, strict=True))

    def _spec(self, name: str, port: Any) -> TensorSpec:
        kind, shape = port.element_type.to_string(), port.partial_shape
        if kind not in DATATYPES:
            raise self._unsuitable(f"it would not compute {name}, which is {kind}, exactly")
        if shape.rank.is_dynamic:
            raise self._unsuitable(f"it cannot tell the rank of {name}")
        sizes = tuple(-1 if size.is_dynamic else size.get_length() for size in shape)
        return TensorSpec(name=name, datatype=DATATYPES[kind], shape=sizes)

    def _check_names(self) -> None:
        """What varies must say what it agrees with, or arrays that disagree could not be told from others."""
        nameless = [
            spec.name
            for spec in self._inputs
            if any(size < 0 and not name for size, name in zip(spec.shape, self._named(spec), strict=True))
        ]
        if nameless and sum(-1 in spec.shape for spec in self._inputs) > 1:
            raise self._unsuitable(f"dimensions of {', '.join(nameless)} vary and have no name (dim_param)")

    def _named(self, spec: TensorSpec) -> tuple[str, ...]:
        return self._dimensions[spec.name] or ("",) * len(spec.shape)

    def _check(self, feeds: Feeds) -> None:
        sizes: dict[str, int] = {}
        for spec in self._inputs:
            array = feeds.get(spec.name)
            if array is None:
                raise _unfit("missing input", "inputs", None, ", ".join(each.name for each in self._inputs))
            if array.dtype != NUMPY[spec.datatype]:
                raise _unfit("wrong datatype", f"inputs.{spec.name}.datatype", str(array.dtype), spec.datatype)
            if len(array.shape) != len(spec.shape):
                raise _unfit("wrong shape", f"inputs.{spec.name}.shape", list(array.shape), str(list(spec.shape)))
            for want, name, size in zip(spec.shape, self._named(spec), array.shape, strict=True):
                expected = want if want >= 0 else sizes.setdefault(name, size) if name else size
                if size != expected:
                    what = f"{name or 'dimension'} {expected}"
                    raise _unfit("wrong shape", f"inputs.{spec.name}.shape", list(array.shape), what)
            if spec.datatype == "INT64" and array.size:
                _check_range(spec.name, array)

    def _unloadable(self, error: Exception) -> TidelineError:
        said = str(error)
        if "OpConversionFailure" in said or "support" in said:
            return self._unsuitable(_brief(said))
        return Corrupt(f"{self._path.name} cannot be loaded: {type(error).__name__}: {_brief(said)}")

    def _unsuitable(self, why: str) -> Refused:
        return _refused(
            f"OpenVINO does not run {self._path.name} as it stands: {why}", "runtime", "openvino", "onnxruntime"
        )

    def _explained(self, error: Exception) -> TidelineError:
        said = str(error)
        if self._interrupted or "was canceled" in said:
            return _ended()
        if "shape" in said.lower():
            return Refused(f"the program cannot take these inputs: {_brief(said)}", kind=Refusal.UNPROCESSABLE)
        return Corrupt(f"the program failed: {type(error).__name__}: {_brief(said)}")


def imported() -> ModuleType:
    """The package, without what tells its maker that it was imported.

    Raises:
        Refused: it is not installed.

    """
    # None makes its import fail, and the package then uses a stand-in that sends nothing and writes nothing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino  # noqa: PLC0415 - an extra, loaded where an arrangement asks for it
    except ImportError as error:
        raise _refused(
            f"OpenVINO is not installed: {error}", "runtime", "openvino", "onnxruntime, or tideline[openvino] installed"
        ) from error
    found: ModuleType = openvino
    return found


def _check_range(name: str, array: Array) -> None:
    if array.max() > _MOST or array.min() < _LEAST:
        raise _unfit(
            "too large for OpenVINO, which computes in 32 bits", f"inputs.{name}", None, f"{_LEAST} to {_MOST}"
        )


def _unfit(message: str, field: str, value: object, allowed: str) -> Refused:
    return Refused(message, kind=Refusal.UNPROCESSABLE, field=field, value=value, allowed=allowed)


def _refused(message: str, field: str, value: str, allowed: str) -> Refused:
    return Refused(message, kind=Refusal.UNSUPPORTED, field=f"arrangement.{field}", value=value, allowed=allowed)


def _ended() -> Transient:
    return Transient("the computation was ended", why=Unavailable.CANCELLED)


def _brief(said: str) -> str:
    """The last of what it says, in one line: what comes before names places in its own source."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("Exception from")]
    return " ".join(lines)[-300:]
