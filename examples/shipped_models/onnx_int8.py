"""Rewriting of an fp32 ONNX graph: weights stored as fp16, or int8 arithmetic that does not depend on batch mates.

int8: every constant MatMul or Gemm with a matrix becomes a `MatMulInteger` whose activations are quantised per token
(one scale per row, found in the graph) and whose weights are quantised per column; an activation that several matrices
share (queries, keys, values) is quantised once; every embedding Gather reads int8 rows. No scale ever spans two rows,
so a sentence has the same answer alone and in any batch.

Weights use seven bits by default: with unsigned 8-bit activations, older x86 kernels add two products in 16 bits, which
saturates for full 8-bit weights. Seven bits cannot, so the answers are the same with and without VNNI.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = NDArray[np.generic]
ZERO_POINT = 128
SMALLEST_SCALE = 1e-12
FP16_LARGEST = 65504.0
FP16_SMALLEST_PEAK = 1e-3  # below this, fp16 has lost the digits that a scale factor needs


def store_weights_as_fp16(model: ModelProto, *, at_least: int = 64) -> ModelProto:
    """A copy whose large float initializers are fp16 with a Cast to fp32; runtimes fold the casts when they load it."""
    result = _copy(model)
    graph = result.graph
    casts: list[NodeProto] = []
    for place, tensor in enumerate(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < at_least or not FP16_SMALLEST_PEAK <= float(np.abs(values).max()) <= FP16_LARGEST:
            continue
        name = tensor.name
        half = numpy_helper.from_array(values.astype(np.float16), name + "_fp16")
        graph.initializer[place].CopyFrom(half)
        casts.append(helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT, name=name + "_widen"))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return _checked(result)


def quantize_per_token(model: ModelProto, *, weight_bits: int = 7, at_least: int = 2048) -> ModelProto:
    """A copy whose constant matrices and embedding tables of `at_least` numbers are int8; the rest is untouched."""
    return _Rewriter(_copy(model), weight_bits=weight_bits, at_least=at_least).run()


def write_model(model: ModelProto, path: Path) -> int:
    """Save a checked model and return its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(_checked(model), str(path))
    return path.stat().st_size


@dataclass
class _Quantised:
    """The two graph values that stand for one activation: unsigned bytes, and each row's largest magnitude."""

    data: str
    largest: str


@dataclass
class _Rewriter:
    """Rewrites one graph in place; every node it emits is already in topological order."""

    model: ModelProto
    weight_bits: int
    at_least: int
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    activations: dict[str, _Quantised] = field(default_factory=dict)
    weights: dict[tuple[str, bool], tuple[str, str]] = field(default_factory=dict)

    @property
    def graph(self) -> GraphProto:
        return self.model.graph

    def run(self) -> ModelProto:
        initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Gather" and self._is_table(node, initializers):
                self._gather(node, initializers[node.input[0]])
            elif node.op_type == "MatMul" and self._is_matrix(node.input[1], initializers):
                self._matmul(node, initializers[node.input[1]], transposed=False, bias=None)
            elif node.op_type == "Gemm" and self._is_plain_gemm(node, initializers):
                transposed = bool(_attribute(node, "transB", 0))
                bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
                self._matmul(node, initializers[node.input[1]], transposed=transposed, bias=bias)
            else:
                self.nodes.append(node)
        nodes = list(self.nodes)
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        self.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in self.constants.items())
        _drop_unused_initializers(self.graph)
        return _checked(self.model)

    def _is_matrix(self, name: str, initializers: dict[str, Array]) -> bool:
        value = initializers.get(name)
        return value is not None and value.dtype == np.float32 and value.ndim == 2 and value.size >= self.at_least

    def _is_table(self, node: NodeProto, initializers: dict[str, Array]) -> bool:
        return _attribute(node, "axis", 0) == 0 and self._is_matrix(node.input[0], initializers)

    def _is_plain_gemm(self, node: NodeProto, initializers: dict[str, Array]) -> bool:
        scaled = _attribute(node, "alpha", 1.0) != 1.0 or _attribute(node, "beta", 1.0) != 1.0
        return not scaled and not _attribute(node, "transA", 0) and self._is_matrix(node.input[1], initializers)

    def _constant(self, name: str, value: Array) -> str:
        self.constants.setdefault(name, value)
        return name

    def _emit(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _gather(self, node: NodeProto, table: Array) -> None:
        source, ids, output = node.input[0], node.input[1], node.output[0]
        largest = np.maximum(np.abs(table).max(axis=1, keepdims=True), SMALLEST_SCALE)
        steps = np.float32(127)
        rows = self._constant(source + "_int8", np.round(table / largest * steps).astype(np.int8))
        scales = self._constant(source + "_row_scale", (largest / steps).astype(np.float32))
        taken = self._emit("Gather", [rows, ids], output + "_bytes", axis=0)
        scale = self._emit("Gather", [scales, ids], output + "_scale", axis=0)
        wide = self._emit("Cast", [taken], output + "_wide", to=TensorProto.FLOAT)
        self._emit("Mul", [wide, scale], output)

    def _quantised(self, name: str) -> _Quantised:
        """Bytes and row maximum of an activation. Adding 128.5 and truncating rounds to nearest in one pass."""
        known = self.activations.get(name)
        if known is not None:
            return known
        floor = self._constant("int8_smallest", np.array(SMALLEST_SCALE, np.float32))
        steps = self._constant("int8_steps", np.array(127, np.float32))
        shift = self._constant("int8_shift", np.array(ZERO_POINT + 0.5, np.float32))
        magnitude = self._emit("Abs", [name], name + "_abs")
        row = self._emit("ReduceMax", [magnitude], name + "_row_max", axes=[-1], keepdims=1)
        largest = self._emit("Max", [row, floor], name + "_largest")
        factor = self._emit("Div", [steps, largest], name + "_factor")
        scaled = self._emit("Mul", [name, factor], name + "_scaled")
        shifted = self._emit("Add", [scaled, shift], name + "_shifted")
        data = self._emit("Cast", [shifted], name + "_uint8", to=TensorProto.UINT8)
        self.activations[name] = _Quantised(data, largest)
        return self.activations[name]

    def _weight(self, name: str, matrix: Array, *, transposed: bool) -> tuple[str, str]:
        """Names of the int8 matrix and of the column factors, which also undo the activation's 127 steps."""
        if (name, transposed) not in self.weights:
            value = matrix.T if transposed else matrix
            steps = np.float32(2 ** (self.weight_bits - 1) - 1)
            largest = np.maximum(np.abs(value).max(axis=0), SMALLEST_SCALE)
            suffix = "_transposed" if transposed else ""
            data = self._constant(name + suffix + "_int8", np.round(value / largest * steps).astype(np.int8))
            factor = (largest / steps / np.float32(127)).astype(np.float32)
            self.weights[name, transposed] = data, self._constant(name + suffix + "_column_factor", factor)
        return self.weights[name, transposed]

    def _matmul(self, node: NodeProto, matrix: Array, *, transposed: bool, bias: str | None) -> None:
        output = node.output[0]
        activation = self._quantised(node.input[0])
        weight, factor = self._weight(node.input[1], matrix, transposed=transposed)
        zero = self._constant("int8_zero_point", np.array(ZERO_POINT, np.uint8))
        summed = self._emit("MatMulInteger", [activation.data, weight, zero], output + "_sum")
        wide = self._emit("Cast", [summed], output + "_wide", to=TensorProto.FLOAT)
        columns = self._emit("Mul", [wide, factor], output + "_columns")
        product = output if bias is None else output + "_product"
        self._emit("Mul", [columns, activation.largest], product)
        if bias is not None:
            self._emit("Add", [product, bias], output)


def _attribute(node: NodeProto, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _drop_unused_initializers(graph: GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _copy(model: ModelProto) -> ModelProto:
    result = ModelProto()
    result.CopyFrom(model)
    return result


def _checked(model: ModelProto) -> ModelProto:
    onnx.checker.check_model(model, full_check=True)
    return model
