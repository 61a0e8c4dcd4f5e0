"""A BERT-shaped encoder as an ONNX graph, of the standard operators that the importer's own export writes (opset 17), without torch."""

import math
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bench.encoder_weights import EPSILON, Shape, Weights

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OPSET, IR = 17, 8


@dataclass
class _Graph:
    """Nodes and constants as they are added."""

    weights: Weights
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: object, dtype: type = np.float32) -> str:
        self.constants[name] = np.asarray(value, dtype)
        return name

    def weight(self, name: str) -> str:
        self.constants[name] = self.weights[name]
        return name

    def linear(self, name: str, value: str) -> str:
        matrix = self.constant(name + ".matrix", np.ascontiguousarray(self.weights[name + ".weight"].T))
        product = self.op("MatMul", value, matrix, name=name + "_product")
        return self.op("Add", self.weight(name + ".bias"), product, name=name + "_done")

    def gemm(self, name: str, value: str, output: str) -> str:
        return self.op("Gemm", value, self.weight(name + ".weight"), self.weight(name + ".bias"), name=output, transB=1)

    def norm(self, name: str, value: str) -> str:
        parameters = self.weight(name + ".weight"), self.weight(name + ".bias")
        return self.op("LayerNormalization", value, *parameters, name=name + "_done", axis=-1, epsilon=EPSILON)


def graph_of(shape: Shape, weights: Weights) -> ModelProto:
    """The program: `input_ids`, `attention_mask`, `token_type_ids` int64 [rows, tokens] in, `logits` float32 [rows, labels] out."""
    graph = _Graph(weights)
    hidden, hides = _embedded(graph), _mask(graph)
    graph.constant("split", [0, 0, shape.heads, shape.hidden // shape.heads], np.int64)
    graph.constant("join", [0, 0, shape.hidden], np.int64)
    graph.constant("scale", math.sqrt(shape.hidden / shape.heads))
    for name, value in (("half", 0.5), ("one", 1.0), ("root", math.sqrt(2.0))):
        graph.constant(name, value)
    for i in range(shape.layers):
        hidden = _layer(graph, f"bert.encoder.layer.{i}", hidden, hides)
    first = graph.op("Gather", hidden, graph.constant("first", 0, np.int64), name="first_token", axis=1)
    pooled = graph.op("Tanh", graph.gemm("bert.pooler.dense", first, "pooled_sum"), name="pooled")
    graph.gemm("classifier", pooled, "logits")
    made = helper.make_graph(
        graph.nodes,
        shape.name,
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"]) for name in INPUTS],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", shape.labels])],
        [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


def _embedded(graph: _Graph) -> str:
    size = graph.op("Shape", "input_ids", name="input_shape")
    tokens = graph.op("Gather", size, graph.constant("second", 1, np.int64), name="token_count")
    step, zero = graph.constant("step", 1, np.int64), graph.constant("zero", 0, np.int64)
    places = graph.op("Range", zero, tokens, step, name="places")
    parts = [
        graph.op("Gather", graph.weight(f"bert.embeddings.{name}_embeddings.weight"), ids, name=name + "_rows", axis=0)
        for name, ids in (("word", "input_ids"), ("token_type", "token_type_ids"), ("position", places))
    ]
    total = graph.op("Add", graph.op("Add", parts[0], parts[1], name="word_and_type"), parts[2], name="embedded")
    return graph.norm("bert.embeddings.LayerNorm", total)


def _mask(graph: _Graph) -> str:
    axes = graph.constant("mask_axes", [1, 2], np.int64)
    wide = graph.op("Unsqueeze", "attention_mask", axes, name="mask_wide")
    real = graph.op("Cast", wide, name="mask_real", to=TensorProto.FLOAT)
    hidden = graph.op("Sub", graph.constant("seen", 1.0), real, name="mask_turned")
    return graph.op("Mul", hidden, graph.constant("far", -10000.0), name="mask_added")


def _layer(graph: _Graph, name: str, hidden: str, hides: str) -> str:
    turned = {"query": [0, 2, 1, 3], "key": [0, 2, 3, 1], "value": [0, 2, 1, 3]}
    part = {}
    for each, order in turned.items():
        at = f"{name}.attention.self.{each}"
        part[each] = graph.op("Reshape", graph.linear(at, hidden), "split", name=at + "_split")
        part[each] = graph.op("Transpose", part[each], name=at + "_turned", perm=order)
    raw = graph.op("MatMul", part["query"], part["key"], name=name + ".raw")
    scaled = graph.op("Div", raw, "scale", name=name + ".scaled")
    scores = graph.op("Softmax", graph.op("Add", scaled, hides, name=name + ".hidden"), name=name + ".scores", axis=-1)
    seen = graph.op("MatMul", scores, part["value"], name=name + ".seen")
    seen = graph.op("Transpose", seen, name=name + ".seen_turned", perm=[0, 2, 1, 3])
    seen = graph.op("Reshape", seen, "join", name=name + ".seen_joined")
    added = graph.op("Add", graph.linear(f"{name}.attention.output.dense", seen), hidden, name=name + ".attended")
    hidden = graph.norm(f"{name}.attention.output.LayerNorm", added)
    inner = _gelu(graph, name + ".gelu", graph.linear(f"{name}.intermediate.dense", hidden))
    added = graph.op("Add", graph.linear(f"{name}.output.dense", inner), hidden, name=name + ".fed")
    return graph.norm(f"{name}.output.LayerNorm", added)


def _gelu(graph: _Graph, name: str, value: str) -> str:
    # The pattern that runtimes fuse; opset 17 has no Gelu of its own.
    error = graph.op("Erf", graph.op("Div", value, "root", name=name + "_scaled"), name=name + "_erf")
    raised = graph.op("Add", error, "one", name=name + "_raised")
    return graph.op("Mul", graph.op("Mul", value, raised, name=name + "_product"), "half", name=name + "_done")
