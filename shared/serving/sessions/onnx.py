"""ONNX Runtime: threads set explicitly, and no spinning unless asked for, so that an idle session costs nothing."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime

from shared.bundle.manifest import TensorSpec
from shared.protocol.errors import Corrupt, Refusal, Refused, TidelineError, Transient, Unavailable
from shared.serving.answer import Array
from shared.serving.sessions import bf16
from shared.serving.sessions.datatypes import OF_ONNX
from shared.serving.sessions.session import Feeds, Outputs

CPU = ("CPUExecutionProvider",)
_WARNINGS_OFF = 3


class OnnxSession:
    """One ONNX program; `threads` is how many cores one run may use, `spinning` whether they wait for work by spinning."""

    def __init__(self, path: Path, *, threads: int, providers: Sequence[str] = CPU, spinning: bool = False) -> None:
        self._path = path
        self._threads = threads
        self._spinning = spinning
        self._providers = list(providers)
        self._session: onnxruntime.InferenceSession | None = None
        self._run_options = _run_options()
        self._interrupted = False
        self._bf16 = False
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
        """Read and optimize the graph; a sibling has it already.

        Raises:
            Corrupt: not a program this runtime can run.

        """
        if self._session is not None:
            return
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _WARNINGS_OFF
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._spinning else "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        # An arena keeps what its largest batch took for as long as the session lives, and is no faster: the C library serves
        # the same blocks again, and gives them back when a program is put out of memory (`shared.io.memory`).
        options.enable_cpu_mem_arena = False
        try:
            session = onnxruntime.InferenceSession(str(self._path), options, providers=self._providers)
        except Exception as error:
            # ONNX Runtime's exceptions share no base class; all of them here mean that this file cannot be run.
            raise Corrupt(f"{self._path.name} cannot be loaded: {type(error).__name__}: {str(error)[:300]}") from error
        self._bf16 = bf16.takes_bf16(session)
        self._inputs = tuple(_spec(node) for node in session.get_inputs())
        self._outputs = tuple(_spec(node) for node in session.get_outputs())
        self._session = session

    def run(self, feeds: Feeds) -> Outputs:
        """The outputs of one run, by name."""
        session = self._session
        if session is None:
            raise Transient("the session is closed", why=Unavailable.NOT_READY)
        try:
            run = bf16.run if self._bf16 else _run
            values = run(session, feeds, self._run_options)
        except Exception as error:
            raise self._explained(error) from error
        return {spec.name: np.asarray(value) for spec, value in zip(self._outputs, values, strict=True)}

    def sibling(self) -> Self:
        """Another lane over the same graph and threads: ONNX Runtime runs one session from many threads at once."""
        other = copy(self)
        other._run_options = _run_options()  # noqa: SLF001 - its own kind
        other._interrupted = False  # noqa: SLF001
        return other

    def interrupt(self) -> None:
        """End a run in progress between two of its operators, and every later one, until `resume`."""
        self._interrupted = True
        self._run_options.terminate = True

    def resume(self) -> None:
        """Let runs run again."""
        if self._interrupted:
            self._interrupted = False
            self._run_options.terminate = False

    def close(self) -> None:
        """Give the graph's memory and threads back."""
        self._session = None

    def _explained(self, error: Exception) -> TidelineError:
        if self._interrupted:
            return Transient("the computation was ended", why=Unavailable.CANCELLED)
        if type(error).__name__ == "InvalidArgument":
            return Refused(f"the program cannot take these inputs: {str(error)[:300]}", kind=Refusal.UNPROCESSABLE)
        return Corrupt(f"the program failed: {type(error).__name__}: {str(error)[:300]}")


def _run(session: onnxruntime.InferenceSession, feeds: Feeds, options: onnxruntime.RunOptions) -> Sequence[Array]:
    return session.run(None, dict(feeds), options)  # type: ignore[no-any-return]


def _run_options() -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.log_severity_level = _WARNINGS_OFF
    return options


def _spec(node: onnxruntime.NodeArg) -> TensorSpec:
    if node.type not in OF_ONNX:
        raise Corrupt(f"{node.name} has type {node.type}, which cannot be served")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(name=node.name, datatype=OF_ONNX[node.type], shape=shape)
