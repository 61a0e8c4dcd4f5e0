"""A torch program of an opened source: what `torch.export` captures, saved without a pickle, for replicas that have torch and a GPU."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import torch

from cloud_core.importer.opened import Traced
from cloud_core.models.inspect_torch import inspect_torch
from cloud_core.replicas.runtimes import Signature, signature_path
from shared.bundle.manifest import TensorSpec
from shared.protocol.errors import Refusal, Refused

_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "custom", "from_node")
"""What a node tells of where it came from: paths of this machine, and text the loader would look into."""
_DATATYPES = {torch.float32: "FP32", torch.int64: "INT64", torch.bool: "BOOL", torch.float16: "FP16"}


def write_program(traced: Traced, path: Path) -> None:
    """Write the `.pt2` file and its signature; sizes that vary in `traced.dynamic` vary in it.

    Raises:
        Refused: torch cannot capture the module, or captures something that fixes a size or holds what an archive must not.

    """
    module = traced.module.eval()
    shapes = tuple(dict.fromkeys(traced.dynamic.get(name, {}), torch.export.Dim.DYNAMIC) for name in traced.inputs)
    try:
        with warnings.catch_warnings(), torch.no_grad(), _without_autocast():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, traced.example, dynamic_shapes=_by_argument(module, shapes))
            found = module(*traced.example)
    except MemoryError:
        raise
    except Exception as error:
        # torch.export fails in many ways on what it cannot capture; each says that this model has no such program.
        raise Refused(
            f"torch.export cannot capture the model: {type(error).__name__}: {str(error)[:300]}",
            kind=Refusal.UNPROCESSABLE,
            field="variants.torch",
            value="torch",
            allowed="the variants of ONNX Runtime",
        ) from error
    outputs = (found,) if isinstance(found, torch.Tensor) else tuple(found)
    signature = Signature(
        inputs=tuple(map(_spec, [traced] * len(traced.inputs), traced.inputs, traced.example)),
        outputs=tuple(map(_spec, [traced] * len(traced.outputs), traced.outputs, outputs)),
    )
    _stripped(program)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path)
    signature_path(path).write_bytes(msgspec.json.encode(signature, order="sorted"))
    inspect_torch(path)


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Where a module switches automatic casts off, it is told nothing: they are off, and a program cannot hold the switch."""
    known = torch.autocast

    def autocast(*arguments: Any, enabled: bool = True, **others: Any) -> Any:
        return known(*arguments, enabled=True, **others) if enabled else nullcontext()

    torch.autocast = autocast
    try:
        yield
    finally:
        torch.autocast = known


def _by_argument(module: Any, shapes: tuple[dict[int, Any], ...]) -> tuple[Any, ...]:
    """One entry per argument of `forward`; those that `*past` gathers form one entry."""
    names = module.forward.__code__.co_varnames[1 : module.forward.__code__.co_argcount]
    return shapes if len(names) == len(shapes) else (*shapes[: len(names)], shapes[len(names) :])


def _stripped(program: Any) -> None:
    program.example_inputs = None
    program._guards_code = []  # noqa: SLF001 - there is no public way; text that the loader would execute
    for graph_module in program.graph_module.modules():
        for node in getattr(graph_module, "graph", torch.fx.Graph()).nodes:
            for note in _NOTES:
                node.meta.pop(note, None)


def _spec(traced: Traced, name: str, value: torch.Tensor) -> TensorSpec:
    varies = traced.dynamic.get(name, {})
    shape = tuple(-1 if axis in varies else int(size) for axis, size in enumerate(value.shape))
    return TensorSpec(name=name, datatype=_DATATYPES[value.dtype], shape=shape)
