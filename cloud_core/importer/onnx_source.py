"""An `.onnx` file as a source of a `tensor` model, and the signature that says what its arrays mean.

The signature is JSON: `{"task": "tensor", "inputs": [TENSOR…], "outputs": [TENSOR…], "labels": [text…], "golden": [ITEM…]}`.
TENSOR is `{"name", "datatype", "shape", "axes"?, "minimum"?, "maximum"?, "example"?}`: `datatype` as the Open Inference Protocol calls
it, `shape` with -1 for what varies, `axes` what each axis means, bounds of values and an example shape for inputs that are made up.
ITEM is `{"inputs": {name: nested lists}, "expect"?: {"outputs": {name: nested lists}}}`. Everything is checked against the graph.
Without a signature the graph speaks for itself; without golden items inputs are made up from a seed, and the program's own
answers to them are what variants are held to.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import onnx

from cloud_core.importer.forms import FP32, fp32_variant
from cloud_core.importer.made_up import answered, made_up
from cloud_core.importer.measure import check_runs
from cloud_core.importer.opened import Opened
from cloud_core.models.bundling import described
from shared.bundle.manifest import Manifest, Processing, TaskKind, TensorSpec
from shared.protocol.envelope import path_in
from shared.protocol.errors import Refusal, Refused
from shared.serving.sessions.datatypes import NUMPY
from shared.serving.trial.program import check_program
from shared.serving.versions.golden import GoldenItem

MAX_SIGNATURE = 64 << 20
_DATATYPES = {
    onnx.TensorProto.FLOAT: "FP32", onnx.TensorProto.FLOAT16: "FP16", onnx.TensorProto.DOUBLE: "FP64",
    onnx.TensorProto.INT8: "INT8", onnx.TensorProto.INT16: "INT16", onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64", onnx.TensorProto.UINT8: "UINT8", onnx.TensorProto.UINT16: "UINT16",
    onnx.TensorProto.UINT32: "UINT32", onnx.TensorProto.UINT64: "UINT64", onnx.TensorProto.BOOL: "BOOL",
    onnx.TensorProto.STRING: "BYTES",
}  # fmt: skip


class Tensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output as its author describes it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    example: tuple[int, ...] | None = None


class Item(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One golden input; what the program answers stands in where nothing is expected."""

    inputs: dict[str, object]
    expect: dict[str, object] | None = None


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    task: TaskKind = TaskKind.TENSOR
    labels: tuple[str, ...] = ()
    golden: tuple[Item, ...] = ()


def open_onnx(path: Path, signature: Path | None = None) -> Opened:
    """The program at `path`.

    Raises:
        Refused: not a program that may be served, or a signature that is not its; names the field.

    """
    check_program(path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        # onnx raises errors of several libraries; each says that the file is no valid model.
        text = f"onnx.checker: {str(error).strip()[:300]}"
        raise Refused(text, kind=Refusal.UNPROCESSABLE, field="source", value=path.name, code="not-onnx") from error
    graph = path.read_bytes()
    model = onnx.load_model_from_string(graph)
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_tensor(value) for value in model.graph.input if value.name not in held)
    outputs = tuple(_tensor(value) for value in model.graph.output)
    said = _read(signature) if signature is not None else Signature(inputs=inputs, outputs=outputs)
    _check(said, inputs, outputs)
    _try(path, said)
    if said.golden:
        items = answered(graph, [GoldenItem(inputs=item.inputs, expect=item.expect or {}) for item in said.golden],
                         _specs(said.inputs))  # fmt: skip
        origin = "the signature's inputs" + (
            "" if all(item.expect for item in said.golden) else "; the program's own answers"
        )
    else:
        items = made_up(graph, said.inputs)
        origin = "made-up inputs of the declared shapes, from a seed; the fp32 program's own answers"
    axes = "; ".join(f"{each.name}: {', '.join(each.axes)}" for each in (*said.inputs, *said.outputs) if each.axes)
    return Opened(
        architecture="ONNX program",
        task=TaskKind.TENSOR,
        processing=Processing(),
        labels=said.labels,
        inputs=_specs(said.inputs),
        outputs=_specs(said.outputs),
        graph=graph,
        about={"golden": origin} | ({"axes": axes} if axes else {}),
        golden=items,
    )


def _try(path: Path, said: Signature) -> None:
    # In a process that may die of it, before this one runs it.
    manifest = Manifest(
        name="source", version="0.0.0", task=TaskKind.TENSOR, files=(described(path),), inputs=_specs(said.inputs),
        variants=(msgspec.structs.replace(fp32_variant(), files=(path.name,)),),
    )  # fmt: skip
    check_runs(manifest, path.parent, FP32)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type not in _DATATYPES or not kind.HasField("shape"):
        raise _refused("graph", f"{value.name}, which is no tensor of a known type and rank", "tensors")
    dims = tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else -1 for dim in kind.shape.dim)
    return Tensor(name=value.name, datatype=_DATATYPES[kind.elem_type], shape=dims)


def _read(path: Path) -> Signature:
    try:
        if path.stat().st_size > MAX_SIGNATURE:
            raise Refused("too large", kind=Refusal.TOO_LARGE, field="signature", allowed=f"{MAX_SIGNATURE} B")
        return msgspec.json.decode(path.read_bytes(), type=Signature)
    except OSError as error:
        text = f"cannot be read: {error.strerror}"
        raise Refused(text, kind=Refusal.NOT_FOUND, field="signature", value=path.name) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = str(error).partition(" - at ")[0]
        raise Refused(message, kind=Refusal.UNPROCESSABLE, field=path_in(error, "signature")) from error


def _check(said: Signature, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    if said.task is not TaskKind.TENSOR:
        raise _refused("task", said.task.value, "tensor: text models are imported from their folders")
    for field, told, known in (("inputs", said.inputs, inputs), ("outputs", said.outputs, outputs)):
        names = [each.name for each in known]
        if sorted(each.name for each in told) != sorted(names):
            raise _refused(field, [each.name for each in told], f"exactly those of the graph: {', '.join(names)}")
        for i, each in enumerate(told):
            own = next(other for other in known if other.name == each.name)
            _check_tensor(each, own, f"{field}[{i}]")


def _check_tensor(said: Tensor, own: Tensor, field: str) -> None:
    if said.datatype != own.datatype:
        raise _refused(f"{field}.datatype", said.datatype, own.datatype)
    if said.datatype not in NUMPY:
        raise _refused(f"{field}.datatype", said.datatype, ", ".join(NUMPY))
    pairs = zip(said.shape, own.shape, strict=False)
    if len(said.shape) != len(own.shape) or any(b not in (-1, a) or a == 0 or a < -1 for a, b in pairs):
        raise _refused(f"{field}.shape", list(said.shape), f"{list(own.shape)}, -1 being any size")
    if said.axes and len(said.axes) != len(said.shape):
        raise _refused(f"{field}.axes", list(said.axes), f"{len(said.shape)} names")
    if said.minimum is not None and said.maximum is not None and not said.minimum < said.maximum:
        raise _refused(f"{field}.maximum", said.maximum, f"more than {said.minimum}")
    if said.example is not None:
        fits = len(said.example) == len(said.shape) and all(
            size > 0 and want in (-1, size) for size, want in zip(said.example, said.shape, strict=True)
        )
        if not fits:
            raise _refused(f"{field}.example", list(said.example), f"{list(said.shape)}, -1 being any size from 1 on")


def _specs(tensors: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=each.name, datatype=each.datatype, shape=each.shape) for each in tensors)


def _refused(field: str, value: object, allowed: str) -> Refused:
    return Refused(
        "the signature is not that of the graph",
        kind=Refusal.UNPROCESSABLE,
        field=f"signature.{field}",
        value=value,
        allowed=allowed,
    )
