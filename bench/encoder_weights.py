"""BERT-shaped encoders with weights from a seed: the sizes, the numbers, and what they compute, in numpy alone.

Peers' environments import this file too, so that a torch model there has the very weights of the ONNX programs here. Speed does not
depend on the values of weights; answers are compared all the same, so that nobody is measured at computing something else.
"""

import math
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Weights = dict[str, Array]
EPSILON = 1e-12
SPREAD = 0.02
"""Standard deviation of every random number, as BERT begins its training with."""


class Shape(NamedTuple):
    """Sizes of an encoder with a classifier on its first token. `inner`: of the feed-forward part."""

    name: str
    layers: int
    hidden: int
    heads: int
    inner: int
    vocabulary: int = 21128
    positions: int = 512
    labels: int = 2


SHAPES = {
    "small": Shape("small", layers=4, hidden=312, heads=12, inner=1200),
    "base": Shape("base", layers=12, hidden=768, heads=12, inner=3072),
}
"""TinyBERT's 4 layers, and BERT-base-Chinese."""


def weights(shape: Shape) -> Weights:
    """Every parameter under the name transformers' BertForSequenceClassification has for it; matrices are [outputs, inputs]."""
    drawn = np.random.default_rng(zlib.crc32(repr(shape).encode()))
    found: Weights = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        found[name + ".weight"] = drawn.standard_normal((outputs, inputs), np.float32) * np.float32(SPREAD)
        found[name + ".bias"] = drawn.standard_normal(outputs, np.float32) * np.float32(SPREAD)

    def table(name: str, rows: int) -> None:
        found[name + ".weight"] = drawn.standard_normal((rows, shape.hidden), np.float32) * np.float32(SPREAD)

    def norm(name: str) -> None:
        found[name + ".weight"] = np.ones(shape.hidden, np.float32)
        found[name + ".bias"] = np.zeros(shape.hidden, np.float32)

    table("bert.embeddings.word_embeddings", shape.vocabulary)
    table("bert.embeddings.position_embeddings", shape.positions)
    table("bert.embeddings.token_type_embeddings", 2)
    norm("bert.embeddings.LayerNorm")
    for i in range(shape.layers):
        layer = f"bert.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", shape.hidden, shape.hidden)
        linear(f"{layer}.attention.output.dense", shape.hidden, shape.hidden)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", shape.inner, shape.hidden)
        linear(f"{layer}.output.dense", shape.hidden, shape.inner)
        norm(f"{layer}.output.LayerNorm")
    linear("bert.pooler.dense", shape.hidden, shape.hidden)
    linear("classifier", shape.labels, shape.hidden)
    return found


def logits(shape: Shape, known: Weights, ids: Ids, mask: Ids) -> Array:
    """What the encoder answers, [rows, labels], step by step: the reference of the ONNX graph. `ids`, `mask`: [rows, tokens]."""
    rows, tokens = ids.shape

    def linear(name: str, value: Array) -> Array:
        return value @ known[name + ".weight"].T + known[name + ".bias"]

    def norm(name: str, value: Array) -> Array:
        centred = value - value.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + EPSILON)
        return np.asarray(scaled * known[name + ".weight"] + known[name + ".bias"])

    def heads(value: Array) -> Array:
        return value.reshape(rows, tokens, shape.heads, -1).transpose(0, 2, 1, 3)

    hidden = norm(
        "bert.embeddings.LayerNorm",
        known["bert.embeddings.word_embeddings.weight"][ids]
        + known["bert.embeddings.position_embeddings.weight"][:tokens]
        + known["bert.embeddings.token_type_embeddings.weight"][0],
    )
    hides = (1.0 - mask[:, None, None, :].astype(np.float32)) * -10000.0
    for i in range(shape.layers):
        layer = f"bert.encoder.layer.{i}"
        query, key, value = (
            heads(linear(f"{layer}.attention.self.{name}", hidden)) for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(shape.hidden / shape.heads) + hides
        raised = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (raised / raised.sum(-1, keepdims=True)) @ value
        seen = seen.transpose(0, 2, 1, 3).reshape(rows, tokens, shape.hidden)
        hidden = norm(f"{layer}.attention.output.LayerNorm", hidden + linear(f"{layer}.attention.output.dense", seen))
        inner = linear(f"{layer}.intermediate.dense", hidden)
        inner = inner * 0.5 * (1.0 + np.vectorize(math.erf)(inner / math.sqrt(2.0)))
        hidden = norm(f"{layer}.output.LayerNorm", hidden + linear(f"{layer}.output.dense", inner))
    return linear("classifier", np.tanh(linear("bert.pooler.dense", hidden[:, 0]))).astype(np.float32)
