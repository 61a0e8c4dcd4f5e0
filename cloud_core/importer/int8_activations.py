"""Activations as unsigned bytes with one scale per row, as nodes of a graph: what stands before every integer product."""

from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto, TensorProto, helper

from cloud_core.importer.folding import Array
from cloud_core.importer.int8_weights import SMALLEST

ZERO_POINT = 128
STEPS = 127
_AXES_ARE_INPUTS = 18
"""From this opset on, ReduceMax takes its axes as an input."""


@dataclass
class Emitter:
    """Nodes and constants on their way into a graph of `opset`; every value is named once."""

    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)

    def emit(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: object) -> str:
        """Add a node; the name of what it gives."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def constant(self, name: str, value: Array) -> str:
        """Add a constant unless it is there; its name."""
        self.constants.setdefault(name, value)
        return name


@dataclass(frozen=True)
class Quantized:
    """Graph values that stand for one activation: unsigned bytes, each row's largest magnitude; what its channels were divided by."""

    data: str
    largest: str
    divisor: Array | None


def quantized(emitter: Emitter, name: str, width: int, *, divisor: Array | None, fine: bool) -> Quantized:
    """Bytes and peaks of the activation `name` [..., width], whatever its leading axes."""
    value = name
    if divisor is not None:
        inverse = emitter.constant(name + "_smoothing", (1 / divisor).astype(np.float32))
        value = emitter.emit("Mul", [name, inverse], name + "_smoothed")
    largest = _largest(emitter, value)
    data = _quantized_rows(emitter, value, largest, width) if fine else _rounded(emitter, value, largest)
    return Quantized(data, largest, divisor)


def _largest(emitter: Emitter, value: str) -> str:
    """The largest magnitude of each row, without a pass that writes all magnitudes."""
    high, low = _row_extreme(emitter, "ReduceMax", value), _row_extreme(emitter, "ReduceMin", value)
    floor = emitter.constant("int8_smallest", _float(SMALLEST))
    return emitter.emit("Max", [high, emitter.emit("Neg", [low], value + "_negated"), floor], value + "_largest")


def _row_extreme(emitter: Emitter, kind: str, value: str) -> str:
    output = f"{value}_{kind}"
    if emitter.opset >= _AXES_ARE_INPUTS:
        return emitter.emit(kind, [value, emitter.constant("int8_last_axis", _shape(-1))], output, keepdims=1)
    return emitter.emit(kind, [value], output, axes=[-1], keepdims=1)


def _rounded(emitter: Emitter, value: str, largest: str) -> str:
    """The plain form's: adding 128.5 and cutting off rounds to nearest."""
    factor = emitter.emit("Div", [emitter.constant("int8_steps", _float(STEPS)), largest], value + "_factor")
    scaled = emitter.emit("Mul", [value, factor], value + "_scaled")
    shifted = emitter.emit(
        "Add", [scaled, emitter.constant("int8_shift", _float(ZERO_POINT + 0.5))], value + "_shifted"
    )
    return emitter.emit("Cast", [shifted], value + "_uint8", to=TensorProto.UINT8)


def _quantized_rows(emitter: Emitter, value: str, largest: str, width: int) -> str:
    """The fine form's: all rows in one pass, by a scale each."""
    per_row = emitter.emit("Reshape", [largest, emitter.constant("int8_each", _shape(-1))], value + "_per_row")
    scale = emitter.emit("Mul", [per_row, emitter.constant("int8_step", _float(1 / STEPS))], value + "_row_scale")
    rows = emitter.emit("Shape", [scale], value + "_rows")
    zeros = emitter.constant("int8_zero_points", np.array([ZERO_POINT], np.uint8))
    zero = emitter.emit("Expand", [zeros, rows], value + "_zero_points")
    flat = emitter.emit(
        "Reshape", [value, emitter.constant(f"int8_rows_of_{width}", _shape(-1, width))], value + "_flat"
    )
    data = emitter.emit("QuantizeLinear", [flat, scale, zero], value + "_flat_uint8", axis=0)
    return emitter.emit("Reshape", [data, emitter.emit("Shape", [value], value + "_shape")], value + "_uint8")


def _float(value: float) -> Array:
    return np.array(value, np.float32)


def _shape(*sizes: int) -> Array:
    return np.array(sizes, np.int64)
