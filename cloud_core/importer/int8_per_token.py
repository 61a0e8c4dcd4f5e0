"""int8 arithmetic written into an ONNX graph so that an answer never depends on its batch mates.

Every constant MatMul, or plain Gemm, becomes a `MatMulInteger` whose activations are quantized per token (one scale per row, found
in the graph) and whose weights per column; an activation that several matrices share (queries, keys, values) is quantized once;
embedding tables are read as int8 rows, and share their bytes with an output matrix tied to them. No scale spans two rows.

Two forms (see `int8_weights`). The fine one has eight-bit weights with bounded neighbours, and divides outlier channels out (see
`smoothing`): a quarter of the plain one's error on MiniLM (cosine to fp32 0.998 in the mean and 0.993 at least, against 0.994 and
0.980). The plain one has seven-bit weights and rounds step by step: models that were scored in it keep their answers to the bit.

Passes over memory are what int8 costs beside its products, so there are few: peaks are read without writing magnitudes,
`MatMulIntegerToFloat` is ONNX Runtime's `MatMulInteger`, `Cast` and `Mul` in one, and the fine form rounds by one `QuantizeLinear`
with a scale per row. MiniLM, [32, 32] tokens, one thread: 117 ms in fp32, 62 with the passes one by one, 58 plain, 55 fine, and 56 for
ONNX Runtime's own dynamic quantization, whose answers depend on their batch mates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from cloud_core.importer.folding import Array, attribute, constants_of, drop_unused, fold_constants, replace_nodes
from cloud_core.importer.int8_activations import STEPS, ZERO_POINT, Emitter, Quantized, quantized
from cloud_core.importer.int8_weights import columns, rows
from cloud_core.importer.smoothing import divisor_for

AT_LEAST = 2048
"""Smaller matrices stay as they are: their bytes and their time do not matter."""
CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class _Product:
    """An activation times the constant `weight`, which is to be `transposed` first."""

    node: NodeProto
    weight: str
    transposed: bool
    bias: str | None

    @property
    def activation(self) -> str:
        return str(self.node.input[0])


def quantize_per_token(model: ModelProto, *, seen: Mapping[str, Array] | None = None, at_least: int = AT_LEAST) -> None:
    """Rewrite the main graph in place.

    Args:
        model: fp32; weights stored as fp16 are widened first.
        seen: for the fine form, samples [rows, channels] of each of `quantized_activations`; None for the plain form.
        at_least: numbers a matrix must have.

    """
    fold_constants(model)
    _Rewriter(model, seen, at_least).run()
    onnx.checker.check_model(model, full_check=True)


def quantized_activations(model: ModelProto, *, at_least: int = AT_LEAST) -> list[str]:
    """The activations `quantize_per_token` would quantize, of a model whose constants are folded."""
    return list(dict.fromkeys(product.activation for product in _Rewriter(model, None, at_least).products.values()))


@dataclass
class _Rewriter:
    """Nodes are emitted in topological order, in place of those they stand for."""

    model: ModelProto
    seen: Mapping[str, Array] | None
    at_least: int
    activations: dict[str, Quantized] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.constants = constants_of(self.model)
        self.emitter = Emitter(next(each.version for each in self.model.opset_import if each.domain in ("", "ai.onnx")))
        self.added = self.emitter.constants
        self.turned = {
            node.output[0]: node.input[0]
            for node in self.model.graph.node
            if node.op_type == "Transpose" and list(attribute(node, "perm", [1, 0])) == [1, 0]
        }
        self.tables = {
            node.input[0]
            for node in self.model.graph.node
            if node.op_type == "Gather" and attribute(node, "axis", 0) == 0 and self._is_matrix(node.input[0])
        }
        found = ((i, self._product(node)) for i, node in enumerate(self.model.graph.node))
        self.products = {i: product for i, product in found if product is not None}

    def run(self) -> None:
        for i, node in enumerate(self.model.graph.node):
            if i in self.products:
                self._multiply(self.products[i])
            elif node.op_type == "Gather" and node.input[0] in self.tables:
                self._gather(node)
            else:
                self.emitter.nodes.append(node)
        if self.products and all(each.domain != CONTRIB for each in self.model.opset_import):
            self.model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
        replace_nodes(self.model, self.emitter.nodes)
        self.model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in self.added.items())
        # Shapes the exporter noted down are of values that are gone.
        del self.model.graph.value_info[:]
        _drop_unread_transposes(self.model)
        drop_unused(self.model)

    def _product(self, node: NodeProto) -> _Product | None:
        if node.op_type == "MatMul":
            name, transposed, bias = node.input[1], False, None
            if name in self.turned:
                name, transposed = self.turned[name], True
        elif node.op_type == "Gemm" and _is_plain(node):
            name, transposed = node.input[1], bool(attribute(node, "transB", 0))
            bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        else:
            return None
        if not self._is_matrix(name) or node.input[0] in self.constants:
            return None
        tied = None if transposed else self._tied_table(name)
        return _Product(node, tied or name, transposed or tied is not None, bias)

    def _is_matrix(self, name: str) -> bool:
        value = self.constants.get(name)
        return value is not None and value.dtype == np.float32 and value.ndim == 2 and value.size >= self.at_least

    def _tied_table(self, name: str) -> str | None:
        """The embedding table whose transposed copy an exporter wrote as `name`."""
        matrix = self.constants[name]
        same = (t for t in self.tables if self.constants[t].shape == matrix.shape[::-1])
        return next((table for table in same if np.array_equal(self.constants[table].T, matrix)), None)

    def _is_tied(self, product: _Product) -> bool:
        return product.transposed and product.weight in self.tables

    def _gather(self, node: NodeProto) -> None:
        table, ids, output = node.input[0], node.input[1], node.output[0]
        tied = any(self._is_tied(product) and product.weight == table for product in self.products.values())
        data, scale = self._tied(table) if tied else self._rows(table)
        taken = self.emitter.emit("Gather", [data, ids], output + "_bytes", axis=0)
        factor = self.emitter.emit("Gather", [scale, ids], output + "_scale", axis=0)
        wide = self.emitter.emit("Cast", [taken], output + "_wide", to=TensorProto.FLOAT)
        self.emitter.emit("Mul", [wide, factor], output)

    def _rows(self, table: str) -> tuple[str, str]:
        if table + "_int8" not in self.added:
            found = rows(self.constants[table])
            self.added |= {table + "_int8": found.data, table + "_row_scale": found.scale}
        return table + "_int8", table + "_row_scale"

    def _tied(self, table: str) -> tuple[str, str]:
        """A table's bytes with the bits of a matrix, which reads them transposed: its columns are the table's rows."""
        if table + "_int8" not in self.added:
            found = columns(self.constants[table].T, fine=self.seen is not None)
            self.added |= {
                table + "_int8": np.ascontiguousarray(found.data.T),
                table + "_row_scale": found.scale[:, np.newaxis],
            }
        return table + "_int8", table + "_row_scale"

    def _weight(self, product: _Product, divisor: Array | None) -> tuple[str, str]:
        """Names of the int8 matrix and of the column factors, which also undo the activation's steps."""
        name = product.weight + ("_transposed" if product.transposed else "")
        if name + "_column_factor" in self.added:
            return name + "_int8", name + "_column_factor"
        if self._is_tied(product):
            # ONNX Runtime turns the bytes once, when it loads the file.
            data, scale = self._tied(product.weight)
            self.emitter.emit("Transpose", [data], name + "_int8", perm=[1, 0])
            column_scale = self.added[scale][:, 0]
        else:
            matrix = self._matrix(product)
            matrix = matrix if divisor is None else matrix * divisor[:, np.newaxis]
            found = columns(matrix, fine=self.seen is not None)
            self.added[name + "_int8"] = found.data
            column_scale = found.scale
        self.added[name + "_column_factor"] = (column_scale / np.float32(STEPS)).astype(np.float32)
        return name + "_int8", name + "_column_factor"

    def _divisor(self, name: str) -> Array | None:
        if self.seen is None or name not in self.seen:
            return None
        every = self.products.values()
        sharing = [product for product in every if product.activation == name]
        weights = {product.weight for product in sharing}
        elsewhere = any(product.weight in weights and product.activation != name for product in every)
        if elsewhere or any(self._is_tied(product) for product in sharing):
            # One matrix cannot take the factors of two activations.
            return None
        return divisor_for(self.seen[name], [self._matrix(product) for product in sharing])

    def _matrix(self, product: _Product) -> Array:
        value = self.constants[product.weight]
        return value.T if product.transposed else value

    def _quantized(self, name: str, width: int) -> Quantized:
        """An activation as bytes, once for all matrices that share it."""
        if name not in self.activations:
            self.activations[name] = quantized(
                self.emitter, name, width, divisor=self._divisor(name), fine=self.seen is not None
            )
        return self.activations[name]

    def _multiply(self, product: _Product) -> None:
        output = product.node.output[0]
        activation = self._quantized(product.activation, self._matrix(product).shape[0])
        weight, factor = self._weight(product, activation.divisor)
        zero, one = (
            self.emitter.constant("int8_zero_point", np.array(ZERO_POINT, np.uint8)),
            self.emitter.constant("int8_one", np.array(1, np.float32)),
        )
        columns_done = self.emitter.emit(
            "MatMulIntegerToFloat", [activation.data, weight, one, factor, zero], output + "_columns", CONTRIB
        )
        rows_done = output if product.bias is None else output + "_product"
        self.emitter.emit("Mul", [columns_done, activation.largest], rows_done)
        if product.bias is not None:
            self.emitter.emit("Add", [rows_done, product.bias], output)


def _is_plain(node: NodeProto) -> bool:
    is_scaled = attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0
    return not is_scaled and not attribute(node, "transA", 0)


def _drop_unread_transposes(model: ModelProto) -> None:
    """Transposes of tables whose readers now take int8 would keep the fp32 table in the file."""
    read = {name for node in model.graph.node for name in node.input} | {each.name for each in model.graph.output}
    replace_nodes(model, [n for n in model.graph.node if n.op_type != "Transpose" or n.output[0] in read])
