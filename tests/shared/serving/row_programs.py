"""Tiny tensor programs: those that compute each row for itself, and those that do not; and how any is written."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.shared.serving.bundles import save

FLOAT, INT64, FP16, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16, TensorProto.STRING
WEIGHTS = np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32)


def program(path: Path, nodes, inputs, outputs, **constants) -> Path:
    """Nodes as (operator, inputs, outputs) and perhaps attributes, inputs and outputs as (name, type, dims); constants by name."""
    infos = [[helper.make_tensor_value_info(*each) for each in side] for side in (inputs, outputs)]
    made = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    nodes = [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes]
    save(helper.make_graph(nodes, "g", *infos, made), path)
    return path


X, Y = [("x", FLOAT, ["n", 6])], [("y", FLOAT, ["n", 4])]
PRODUCT = ("MatMul", ["x", "w"], ["p"])
APART = {
    "a product": ([("MatMul", ["x", "w"], ["y"])], X, Y, {"w": WEIGHTS}),
    "softmax of a row": ([PRODUCT, ("Softmax", ["p"], ["y"], {"axis": 1})], X, Y, {"w": WEIGHTS}),
    "a logarithm": ([PRODUCT, ("Abs", ["p"], ["a"]), ("Log", ["a"], ["y"])], X, Y, {"w": WEIGHTS}),
    "rows of a table": ([("Gather", ["w", "i"], ["y"])], [("i", INT64, ["n"])], Y, {"w": WEIGHTS}),
    "any width": ([("Exp", ["x"], ["y"])], [("x", FLOAT, ["n", "k"])], [("y", FLOAT, ["n", "k"])], {}),
    "two inputs": ([("Add", ["a", "b"], ["y"])], [("a", FLOAT, ["n", 4]), ("b", FLOAT, ["n", 4])], Y, {}),
    "text": ([("Identity", ["s"], ["t"])], [("s", STRING, ["n"])], [("t", STRING, ["n"])], {}),
    "halves": ([("Mul", ["x", "x"], ["y"])], [("x", FP16, ["n", 6])], [("y", FP16, ["n", 6])], {}),
}
MEAN = ("ReduceMean", ["p"], ["m"], {"axes": [0], "keepdims": 1})
MIXED = {
    "less the mean": ([PRODUCT, MEAN, ("Sub", ["p", "m"], ["y"])], X, Y, {"w": WEIGHTS}),
    "softmax over rows": ([PRODUCT, ("Softmax", ["p"], ["y"], {"axis": 0})], X, Y, {"w": WEIGHTS}),
    "a running sum": ([PRODUCT, ("CumSum", ["p", "zero"], ["y"])], X, Y, {"w": WEIGHTS, "zero": np.array(0)}),
    "one scale for all": (
        [
            ("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            ("DequantizeLinear", ["q", "s", "z"], ["d"]),
            ("MatMul", ["d", "w"], ["y"]),
        ],
        X,
        Y,
        {"w": WEIGHTS},
    ),
    "the first row alone": (
        [PRODUCT, ("Slice", ["p", "zero", "one", "zero"], ["y"])],
        X,
        Y,
        {"w": WEIGHTS, "zero": np.array([0]), "one": np.array([1])},
    ),
    "the other way round": (
        [PRODUCT, ("Slice", ["p", "last", "least", "zero", "last"], ["y"])],
        X,
        Y,
        {"w": WEIGHTS, "zero": np.array([0]), "last": np.array([-1]), "least": np.array([-1000])},
    ),
    "a count": (
        [PRODUCT, ("NonZero", ["p"], ["k"]), ("Transpose", ["k"], ["y"], {"perm": [1, 0]})],
        X,
        [("y", INT64, ["n", 2])],
        {"w": WEIGHTS},
    ),
    "one answer for all": (
        [PRODUCT, ("ReduceSum", ["p", "zero"], ["y"], {"keepdims": 1})],
        X,
        [("y", FLOAT, [1, 4])],
        {"w": WEIGHTS, "zero": np.array([0])},
    ),
    "a fixed number of rows": ([("Exp", ["x"], ["y"])], [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])], {}),
    "a number for all": ([("ReduceSum", ["x"], ["y"], {"keepdims": 0})], X, [("y", FLOAT, [])], {}),
    "nothing but no number": (
        [("Sub", ["x", "x"], ["o"]), ("Div", ["o", "o"], ["y"])],
        X,
        [("y", FLOAT, ["n", 6])],
        {},
    ),
}
