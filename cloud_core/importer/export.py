"""From torch to ONNX: our own export, held against torch on padded inputs of several sizes before anything is made of it."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper

from cloud_core.importer.opened import Opened, Traced
from cloud_core.importer.running import run_session
from shared.protocol.errors import Refusal, Refused

OPSET, OPSET_DYNAMO = 17, 18
PARITY = 1e-4
"""The largest difference between ONNX Runtime and torch, in any number of any output."""
LARGEST = (2 << 30) - (16 << 20)
"""Bytes of a self-contained ONNX file: protobuf ends at 2 GiB."""


def export(opened: Opened, path: Path) -> float:
    """Write the fp32 program of an opened source; the largest difference from torch, 0 for a source that was ONNX already.

    Raises:
        Refused: too large, not exportable, or a program that answers otherwise than torch; names the figures.

    """
    if opened.traced is None:
        if opened.graph is None:
            raise ValueError("an opened source has a module or a graph")
        path.write_bytes(opened.graph)
        return 0.0
    traced = opened.traced
    size = sum(value.numel() * 4 for value in traced.module.parameters())
    if size > LARGEST:
        raise Refused(
            "the model is too large in fp32", kind=Refusal.TOO_LARGE, field="source", value=size, allowed=f"{LARGEST} B"
        )
    failures: list[str] = []
    for dynamo in (traced.dynamo, True) if not traced.dynamo else (True,):
        try:
            model = _cleaned(_exported(traced, path, dynamo=dynamo), traced)
        except MemoryError:
            raise
        except Exception as error:
            # The exporters fail in many ways on what they cannot trace; the other one may well do it.
            failures.append(f"{'dynamo' if dynamo else 'tracing'}: {type(error).__name__}: {str(error)[:200]}")
            continue
        path.write_bytes(model.SerializeToString(deterministic=True))
        difference, at = _difference(traced, path)
        if difference <= PARITY:
            return difference
        failures.append(f"{'dynamo' if dynamo else 'tracing'}: differs from torch by {difference:.2e} {at}")
    raise Refused(
        "the model cannot be exported: " + "; ".join(failures),
        kind=Refusal.UNPROCESSABLE,
        field="source",
        allowed=f"a graph within {PARITY} of torch",
    )


def _exported(traced: Traced, path: Path, *, dynamo: bool) -> ModelProto:
    # The wrapper, not the model inside: the tracing exporter gives a module back in the mode it found its outside in.
    module = traced.module.eval()
    names = {"input_names": list(traced.inputs), "output_names": list(traced.outputs)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(
                module, traced.example, str(path), **names, dynamic_shapes=_shapes(traced), dynamo=True,
                opset_version=OPSET_DYNAMO, external_data=False, verbose=False,
            )  # fmt: skip
        else:
            torch.onnx.export(
                module, traced.example, str(path), **names, dynamic_axes=_axes(traced.dynamic), dynamo=False,
                opset_version=OPSET,
            )  # fmt: skip
    return onnx.load(str(path))


def _axes(dynamic: Mapping[str, Mapping[int, str]]) -> dict[str, dict[int, str]]:
    return {name: dict(axes) for name, axes in dynamic.items()}


def _shapes(traced: Traced) -> tuple[dict[int, Any], ...]:
    return tuple(dict.fromkeys(traced.dynamic.get(name, {}), torch.export.Dim.DYNAMIC) for name in traced.inputs)


def _cleaned(model: ModelProto, traced: Traced) -> ModelProto:
    """Every input there is, and nothing that tells of the machine: stack traces hold paths."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    given = {value.name for value in graph.input}
    # The exporter drops what the model does not read, and the engine feeds all encoders alike.
    for name, example in zip(traced.inputs, traced.example, strict=True):
        if name not in given:
            shape = [traced.dynamic.get(name, {}).get(axis, size) for axis, size in enumerate(example.shape)]
            graph.input.append(helper.make_tensor_value_info(name, _TYPES[example.dtype], shape))
    onnx.checker.check_model(model)
    return model


_TYPES = {torch.int64: TensorProto.INT64, torch.float32: TensorProto.FLOAT, torch.bool: TensorProto.BOOL}


def _difference(traced: Traced, path: Path) -> tuple[float, str]:
    """The largest difference over the example and the checks, and where it was."""
    session = run_session(path)
    worst, where = 0.0, ""
    for inputs in (traced.example, *traced.checks):
        with torch.no_grad():
            wanted = traced.module(*inputs)
        wanted = (wanted,) if isinstance(wanted, torch.Tensor) else tuple(wanted)
        feeds = {name: value.numpy() for name, value in zip(traced.inputs, inputs, strict=True)}
        found = session.run(list(traced.outputs), feeds)
        for name, expected, given in zip(traced.outputs, wanted, found, strict=True):
            if tuple(expected.shape) != given.shape:
                return float("inf"), f"in {name}: shape {given.shape} instead of {tuple(expected.shape)}"
            difference = float(np.abs(expected.numpy() - given).max()) if given.size else 0.0
            # A NaN compares as nothing at all, and would pass.
            if not difference <= worst:
                worst, where = difference, f"in {name} at shape {tuple(inputs[0].shape)}"
            if np.isnan(difference):
                return float("inf"), f"in {name}: not a number"
    return worst, where
