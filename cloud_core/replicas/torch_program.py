"""A session on torch: programs written by `torch.export`, on a GPU where there is one. Only it and `torch_precision` load torch here."""

from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch.export.passes import move_to_device_pass

from cloud_core.models.inspect_torch import inspect_torch
from cloud_core.replicas.runtimes import Signature, read_signature
from cloud_core.replicas.torch_precision import casting, dtype_here, lowered
from shared.bundle.manifest import TensorSpec
from shared.protocol.errors import Corrupt, Refusal, Refused, TidelineError, Transient, Unavailable
from shared.serving.answer import Array
from shared.serving.sessions.session import Feeds, Outputs


class TorchProgram:
    """One `.pt2` program. `device` None is the first GPU, or the CPU where there is none.

    `precision`: what products are computed in, `bf16` or on a GPU `fp16`; empty for FP32, which all programs are stored in.
    """

    def __init__(self, path: Path, *, threads: int, device: str | None = None, precision: str = "") -> None:
        self._path = path
        self._threads = threads
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._precision = precision
        self._dtype: torch.dtype | None = None
        self._program: Any = None
        self._signature = Signature(inputs=(), outputs=())
        self._interrupted = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The program's inputs, once loaded."""
        return self._signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The program's outputs, once loaded."""
        return self._signature.outputs

    def load(self) -> None:
        """Check the archive, read it, and move it to the device.

        Raises:
            Refused: an archive that holds what a program must not, or a precision the device does not compute in.
            Corrupt: no signature, or a program that this torch cannot read.

        """
        if self._program is not None:
            return
        self._dtype = dtype_here(self._precision, self._device)
        # torch's own reader would run what it finds.
        inspect_torch(self._path)
        self._signature = read_signature(self._path)
        if self._device == "cpu":
            torch.set_num_threads(self._threads)
        try:
            program = torch.export.load(self._path)
            if self._device != "cpu":
                program = move_to_device_pass(program, self._device)
            # Guards would be Python text out of the file; there is none in it, and shapes are the task's business.
            module = program.module(check_guards=False)
            self._program = module if self._dtype is None else lowered(module, self._dtype)
        except Exception as error:
            # Whatever torch says here, the file is not one it can run.
            raise Corrupt(f"{self._path.name} cannot be loaded: {type(error).__name__}: {str(error)[:300]}") from error

    def run(self, feeds: Feeds) -> Outputs:
        """The outputs of one run, by name.

        Raises:
            Refused: shapes or types the program cannot take.
            Transient: it was ended, or is closed.
            Corrupt: it failed.

        """
        if self._program is None:
            raise Transient("the session is closed", why=Unavailable.NOT_READY)
        if self._interrupted:
            raise Transient("the computation was ended", why=Unavailable.CANCELLED)
        try:
            with torch.inference_mode(), casting(self._device, self._dtype):
                given = [self._given(feeds[spec.name]) for spec in self._signature.inputs]
                values = self._program(*given)
                found = (values,) if isinstance(values, torch.Tensor) else tuple(values)
                arrays = [
                    _taken(value, spec.datatype) for value, spec in zip(found, self._signature.outputs, strict=True)
                ]
        except Exception as error:
            raise self._explained(error) from error
        if self._interrupted:
            raise Transient("the computation was ended", why=Unavailable.CANCELLED)
        return {spec.name: array for spec, array in zip(self._signature.outputs, arrays, strict=True)}

    def sibling(self) -> Self:
        """Another lane over the same program."""
        other = copy(self)
        other._interrupted = False  # noqa: SLF001 - its own kind
        return other

    def interrupt(self) -> None:
        """Make later runs, and the end of one in progress, raise `Transient`, until `resume`: torch cannot be stopped half way."""
        self._interrupted = True

    def resume(self) -> None:
        """Let runs run again."""
        self._interrupted = False

    def close(self) -> None:
        """Give the program's memory back."""
        self._program = None
        if self._device != "cpu":
            torch.cuda.empty_cache()

    def _given(self, array: Array) -> Any:
        # torch takes no array that it could not write to.
        return torch.from_numpy(np.require(array, requirements="W")).to(self._device)

    def _explained(self, error: Exception) -> TidelineError:
        said = f"{type(error).__name__}: {str(error)[:300]}"
        if isinstance(error, torch.cuda.OutOfMemoryError):
            return Transient(f"the GPU is out of memory: {said}", why=Unavailable.NOT_READY)
        if isinstance(error, KeyError | TypeError | IndexError):
            return Refused(f"the program cannot take these inputs: {said}", kind=Refusal.UNPROCESSABLE)
        return Corrupt(f"the program failed: {said}")


def _taken(value: Any, datatype: str) -> Array:
    # What is computed in bf16 is given as the program says.
    array: Array = (value.float() if datatype == "FP32" else value).cpu().numpy()
    return array
