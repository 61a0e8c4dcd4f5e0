"""ONNX Runtime on the CPU: threads set explicitly, no spinning, so that an idle session costs nothing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from shared.bundle.manifest import TensorSpec
from shared.protocol.errors import Corrupt, Refusal, Refused, TidelineError, Transient, Unavailable
from shared.serving.sessions.datatypes import OF_ONNX
from shared.serving.sessions.session import Feeds, Outputs

CPU = ("CPUExecutionProvider",)
_WARNINGS_OFF = 3


class OnnxSession:
    """One ONNX program; `threads` is how many cores one run may use."""

    def __init__(self, path: Path, *, threads: int, providers: Sequence[str] = CPU) -> None:
        self._path = path
        self._threads = threads
        self._providers = list(providers)
        self._session: onnxruntime.InferenceSession | None = None
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = _WARNINGS_OFF
        self._terminated = False
        self._inputs: tuple[TensorSpec, ...] = ()
        self._outputs: tuple[TensorSpec, ...] = ()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The graph's inputs, once loaded."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The graph's outputs, once loaded."""
        return self._outputs

    def load(self) -> None:
        """Read and optimize the graph.

        Raises:
            Corrupt: not a program this runtime can run.

        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _WARNINGS_OFF
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(str(self._path), options, providers=self._providers)
        except Exception as error:
            # ONNX Runtime's exceptions share no base class; all of them here mean that this file cannot be run.
            raise Corrupt(f"{self._path.name} cannot be loaded: {type(error).__name__}: {str(error)[:300]}") from error
        self._inputs = tuple(_spec(node) for node in session.get_inputs())
        self._outputs = tuple(_spec(node) for node in session.get_outputs())
        self._session = session

    def run(self, feeds: Feeds) -> Outputs:
        """The outputs of one run, by name."""
        session = self._session
        if session is None:
            raise Transient("the session is closed", why=Unavailable.NOT_READY)
        try:
            values = session.run(None, dict(feeds), self._run_options)
        except Exception as error:
            raise self._explained(error) from error
        return {spec.name: np.asarray(value) for spec, value in zip(self._outputs, values, strict=True)}

    def terminate(self) -> None:
        """Make a run in progress, and every later one, raise `Transient`."""
        self._terminated = True
        self._run_options.terminate = True

    def close(self) -> None:
        """Give the graph's memory and threads back."""
        self._session = None

    def _explained(self, error: Exception) -> TidelineError:
        if self._terminated:
            return Transient("the computation was ended", why=Unavailable.CANCELLED)
        if type(error).__name__ == "InvalidArgument":
            return Refused(f"the program cannot take these inputs: {str(error)[:300]}", kind=Refusal.UNPROCESSABLE)
        return Corrupt(f"the program failed: {type(error).__name__}: {str(error)[:300]}")


def _spec(node: onnxruntime.NodeArg) -> TensorSpec:
    if node.type not in OF_ONNX:
        raise Corrupt(f"{node.name} has type {node.type}, which cannot be served")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(name=node.name, datatype=OF_ONNX[node.type], shape=shape)
