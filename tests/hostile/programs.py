"""Programs that must not be loaded, each made here: what they would do is in their name."""

import os
import pickle
import random
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
OPSET = helper.make_opsetid("", 17)


def value(name: str, shape: list[int | str] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto] = [],  # noqa: B006
    **more: object,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    opsets = more.pop("opsets", [OPSET])
    return helper.make_model(graph, opset_imports=opsets, ir_version=more.pop("ir", 9), **more)


def one(operator: str, domain: str = "", **attributes: object) -> onnx.ModelProto:
    """One node, x in and y out."""
    opsets = [OPSET, helper.make_opsetid(domain, 1)] if domain else [OPSET]
    node = helper.make_node(operator, ["x"], ["y"], domain=domain, **attributes)
    return model([node], [value("x", ["n", 3])], [value("y", ["n", 3])], opsets=opsets)


def good() -> bytes:
    return model(
        [helper.make_node("Add", ["x", "x"], ["y"])], [value("x", ["n", 3])], [value("y", ["n", 3])]
    ).SerializeToString()


def functions(depth: int) -> bytes:
    """A chain of local functions: 3000 deep it ends ONNX Runtime with SIGSEGV."""
    own = helper.make_opsetid("own", 1)
    made = []
    for i in range(depth):
        last = i == depth - 1
        node = helper.make_node("Identity" if last else f"F{i + 1}", ["a"], ["b"], domain="" if last else "own")
        made.append(helper.make_function("own", f"F{i}", ["a"], ["b"], [node], [OPSET, own]))
    node = helper.make_node("F0", ["x"], ["y"], domain="own")
    return model([node], [value("x", [1])], [value("y", [1])], opsets=[OPSET, own], functions=made).SerializeToString()


def endless_loop() -> bytes:
    """Two hundred bytes that pass ONNX's full check and never end."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("v", [1])],
        [value("on", [], TensorProto.BOOL), value("w", [1])],
    )
    constants = [numpy_helper.from_array(np.array(2**62), "times"), numpy_helper.from_array(np.array(True), "go_on")]
    node = helper.make_node("Loop", ["times", "go_on", "x"], ["y"], body=body)
    return model([node], [value("x", [1])], [value("y", [1])], constants).SerializeToString()


def filled(size: int) -> bytes:
    """A constant shape: 160 GB out of a hundred bytes."""
    shape = numpy_helper.from_array(np.array([size, size]), "s")
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["z"], keepdims=0),
    ]
    nodes.append(helper.make_node("Add", ["x", "z"], ["y"]))
    return model(nodes, [value("x", [1])], [value("y", [1])], [shape]).SerializeToString()


def filled_at_run() -> bytes:
    """The same, but how large is only known when it runs."""
    nodes = [
        helper.make_node("Mul", ["x", "many"], ["f"]),
        helper.make_node("Cast", ["f"], ["s"], to=TensorProto.INT64),
        helper.make_node("ConstantOfShape", ["s"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["y"], keepdims=0),
    ]
    many = numpy_helper.from_array(np.array([200_000, 200_000], np.float32), "many")
    return model(nodes, [value("x", [2])], [value("y", [])], [many]).SerializeToString()


def spread(operator: str) -> bytes:
    """Expand and Tile: one number becomes many."""
    many = numpy_helper.from_array(np.array([300_000, 300_000]), "many")
    nodes = [
        helper.make_node(operator, ["x", "many"], ["big"]),
        helper.make_node("ReduceMax", ["big"], ["y"], keepdims=0),
    ]
    return model(nodes, [value("x", [1, 1])], [value("y", [])], [many]).SerializeToString()


def outside(location: str, *, where: str = "initializer", offset: int | None = None) -> bytes:
    """Numbers that are said to lie in another file."""
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    entries = {"location": location, "length": "16"} | ({} if offset is None else {"offset": str(offset)})
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    output = [value("y", [4])]
    match where:
        case "initializer":
            made = model([helper.make_node("Identity", ["w"], ["y"])], [], output, [tensor])
        case "attribute":
            made = model([helper.make_node("Constant", [], ["y"], value=tensor)], [], output)
        case "subgraph":
            then = helper.make_graph(
                [helper.make_node("Identity", ["w"], ["a"])], "then", [], [value("a", [4])], [tensor]
            )
            other = helper.make_graph(
                [helper.make_node("Constant", [], ["b"], value_floats=[1.0] * 4)], "else", [], [value("b", [4])]
            )
            made = model(
                [helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)],
                [value("c", [], TensorProto.BOOL)],
                output,
            )
        case "sparse":
            made = model([helper.make_node("Identity", ["w"], ["y"])], [], output)
            indices = numpy_helper.from_array(np.array([0, 1, 2, 3]))
            made.graph.sparse_initializer.add(values=tensor, indices=indices, dims=[4])
        case _:
            raise ValueError(where)
    return made.SerializeToString()


def nested(depth: int) -> bytes:
    """Branches within branches."""
    inner = helper.make_graph([helper.make_node("Identity", ["x"], ["a0"])], "g0", [], [value("a0", [1])])
    for i in range(1, depth):
        # One branch each: two would double it every time.
        node = helper.make_node("If", ["c"], [f"a{i}"], then_branch=inner)
        inner = helper.make_graph([node], f"g{i}", [], [value(f"a{i}", [1])])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    return model([node], [value("c", [], TensorProto.BOOL), value("x", [1])], [value("y", [1])]).SerializeToString()


def many_nodes(count: int) -> bytes:
    """A chain of `count` nodes, written by hand: the library would take minutes."""
    whole = model([helper.make_node("Identity", ["x"], ["y"])], [value("x", [1])], [value("y", [1])])
    node = whole.graph.node[0].SerializeToString()
    field = b"\x0a" + bytes([len(node)]) + node
    graph = field * count + whole.graph.SerializeToString()
    rest = onnx.ModelProto(ir_version=9, opset_import=[OPSET]).SerializeToString()
    return rest + b"\x3a" + _varint(len(graph)) + graph


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def huge(dims: list[int]) -> bytes:
    """A constant that says it is larger than it is."""
    tensor = TensorProto(name="w", data_type=FLOAT, dims=dims)
    return model([helper.make_node("Identity", ["w"], ["y"])], [], [value("y", None)], [tensor]).SerializeToString()


def sparse() -> bytes:
    made = model([helper.make_node("Identity", ["w"], ["y"])], [], [value("y", [1 << 40])])
    values = numpy_helper.from_array(np.array([1.0], np.float32), "w")
    made.graph.sparse_initializer.add(values=values, indices=numpy_helper.from_array(np.array([0])), dims=[1 << 40])
    return made.SerializeToString()


def not_a_number() -> bytes:
    """Runs, and answers NaN."""
    nodes = [helper.make_node("Sub", ["x", "x"], ["zero"]), helper.make_node("Div", ["zero", "zero"], ["y"])]
    return model(nodes, [value("x", ["n", 3])], [value("y", ["n", 3])]).SerializeToString()


def stride_zero() -> bytes:
    """A convolution that steps nowhere: a division by zero in runtimes of old."""
    weight = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], strides=[0, 1])
    return model([node], [value("x", [1, 1, 8, 8])], [value("y", [1, 1, 6, 6])], [weight]).SerializeToString()


class _Touches:
    """Unpickling one makes a file."""

    def __init__(self, sentinel: Path) -> None:
        self._sentinel = sentinel

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, int]]:
        return os.open, (str(self._sentinel), os.O_CREAT)


def pickled(sentinel: Path, protocol: int = 4) -> bytes:
    return pickle.dumps({"weights": _Touches(sentinel)}, protocol=protocol)


def zipped(sentinel: Path) -> bytes:
    """As torch.save would write it."""
    into = BytesIO()
    with zipfile.ZipFile(into, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(sentinel))
    return into.getvalue()


def noise() -> bytes:
    return random.Random(7).randbytes(4000)
