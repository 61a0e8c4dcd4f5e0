"""A session on torch: programs written by `torch.export`, on a GPU where there is one. The only module outside the importer with torch."""

from pathlib import Path
from typing import Any

import torch

from cloud_core.models.inspect_torch import inspect_torch
from cloud_core.replicas.runtimes import Signature, read_signature
from shared.bundle.manifest import TensorSpec
from shared.protocol.errors import Corrupt, Refusal, Refused, TidelineError, Transient, Unavailable
from shared.serving.sessions.session import Feeds, Outputs


class TorchProgram:
    """One `.pt2` program. `device` None is the first GPU, or the CPU where there is none."""

    def __init__(self, path: Path, *, threads: int, device: str | None = None) -> None:
        self._path = path
        self._threads = threads
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._program: Any = None
        self._signature = Signature(inputs=(), outputs=())
        self._terminated = False

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
            Refused: an archive that holds what a program must not.
            Corrupt: no signature, or a program that this torch cannot read.

        """
        # torch's own reader would run what it finds.
        inspect_torch(self._path)
        self._signature = read_signature(self._path)
        if self._device == "cpu":
            torch.set_num_threads(self._threads)
        try:
            program = torch.export.load(self._path)
            if self._device != "cpu":
                program = torch.export.passes.move_to_device_pass(program, self._device)
            # Guards would be Python text out of the file; there is none in it, and shapes are the task's business.
            self._program = program.module(check_guards=False)
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
        if self._program is None or self._terminated:
            raise Transient("the session is closed", why=Unavailable.NOT_READY)
        try:
            with torch.inference_mode():
                given = [torch.from_numpy(feeds[spec.name]).to(self._device) for spec in self._signature.inputs]
                values = self._program(*given)
                found = (values,) if isinstance(values, torch.Tensor) else tuple(values)
                arrays = [value.cpu().numpy() for value in found]
        except Exception as error:
            raise self._explained(error) from error
        if self._terminated:
            raise Transient("the computation was ended", why=Unavailable.CANCELLED)
        return {spec.name: array for spec, array in zip(self._signature.outputs, arrays, strict=True)}

    def terminate(self) -> None:
        """Make every later run, and the end of one in progress, raise `Transient`: torch cannot be stopped half way."""
        self._terminated = True

    def close(self) -> None:
        """Give the program's memory back."""
        self._program = None
        if self._device != "cpu":
            torch.cuda.empty_cache()

    def _explained(self, error: Exception) -> TidelineError:
        said = f"{type(error).__name__}: {str(error)[:300]}"
        if isinstance(error, torch.cuda.OutOfMemoryError):
            return Transient(f"the GPU is out of memory: {said}", why=Unavailable.NOT_READY)
        if isinstance(error, KeyError | TypeError | IndexError):
            return Refused(f"the program cannot take these inputs: {said}", kind=Refusal.UNPROCESSABLE)
        return Corrupt(f"the program failed: {said}")
