"""ONNX Runtime inside the importer: sessions as a device has them, and one that computes each operator by itself."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime

from shared.bundle.manifest import TensorSpec
from shared.serving.sessions.datatypes import OF_ONNX
from shared.serving.sessions.session import Feeds, Outputs

_ERRORS_ONLY = 3


def run_session(program: bytes | Path, *, threads: int = 2, optimized: bool = True) -> Any:
    """A session on the CPU that does not spin."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = program if isinstance(program, bytes) else str(program)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class OtherArithmetic:
    """A program run without any fusion: it rounds elsewhere, as another processor does.

    Answers that stay the same with it do not hang on the last bit of this machine's arithmetic.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: Any = None
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()

    def load(self) -> None:
        """Read the program."""
        self._session = run_session(self._path, optimized=False)
        self.inputs, self.outputs = (
            tuple(TensorSpec(name=node.name, datatype=OF_ONNX[node.type], shape=()) for node in nodes)
            for nodes in (self._session.get_inputs(), self._session.get_outputs())
        )

    def run(self, feeds: Feeds) -> Outputs:
        """The outputs of one run, by name."""
        values = self._session.run(None, dict(feeds))
        return {spec.name: np.asarray(value) for spec, value in zip(self.outputs, values, strict=True)}

    def sibling(self) -> Self:
        """Itself: nothing here runs two at once."""
        return self

    def interrupt(self) -> None:
        """Nothing runs elsewhere."""

    def resume(self) -> None:
        """Nothing was interrupted."""

    def close(self) -> None:
        """Give the memory back."""
        self._session = None
