"""A tiny decoder: an attention layer with a cache as an ONNX graph, the same in numpy without one, and bundles of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from shared.bundle.manifest import Generation, Manifest, Processing, TaskKind, Variant
from tests.shared.serving.bundles import files_of, save

LETTERS = "你好世界天地人我们在这里说话。，？！abcdefgh 😀🎉"
END = "<end>"
VOCABULARY = [END, "<unk>", *LETTERS]
IDS = {token: i for i, token in enumerate(VOCABULARY)}
HEADS, SIZE, CONTEXT = 2, 4, 96
WIDTH = HEADS * SIZE
GENERATION = Generation(layers=1, heads=HEADS, head_size=SIZE, context=CONTEXT, ends=(IDS[END],))


def letters() -> Tokenizer:
    """One token per character."""
    made = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens([AddedToken(END, special=True)])
    return made


def byte_level() -> Tokenizer:
    """One token per byte, as GPT-2's vocabulary without a merge, and three tokens of several bytes."""
    table = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("ä", "½"), ("ä½", "ł"), ("å", "¥")]
    for pair in merges:
        table["".join(pair)] = len(table)
    made = Tokenizer(models.BPE(table, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def weights(seed: int = 7) -> dict[str, np.ndarray]:
    """Scaled so that greedy texts wander over the vocabulary; the end token is out of reach."""
    draw = np.random.default_rng(seed)
    made = {
        "embedding": draw.normal(size=(len(VOCABULARY), WIDTH)),
        "position": draw.normal(size=(CONTEXT, WIDTH)) * 0.7,
        **{name: draw.normal(size=(WIDTH, WIDTH)) for name in ("query", "key", "value")},
        "out": draw.normal(size=(WIDTH, len(VOCABULARY))),
        "bias": np.where(np.arange(len(VOCABULARY)) == IDS[END], -1e4, 0.0),
    }
    return {name: array.astype(np.float32) for name, array in made.items()}


def decoder(path: Path, table: dict[str, np.ndarray]) -> None:
    """The graph, in the form every imported decoder has."""
    numbers = {"zero": 0, "one": 1, "two": 2, "three": 3}
    constants = [numpy_helper.from_array(np.array([value]), name) for name, value in numbers.items()]
    constants += [numpy_helper.from_array(np.array(value), f"{name}_flat") for name, value in (("zero", 0), ("one", 1))]
    constants += [numpy_helper.from_array(array, name) for name, array in table.items()]
    constants += [
        numpy_helper.from_array(np.array([0, 0, HEADS, SIZE]), "split"),
        numpy_helper.from_array(np.array([0, 0, WIDTH]), "joined"),
        numpy_helper.from_array(np.float32(SIZE**-0.5), "scale"),
        numpy_helper.from_array(np.float32(-1e9), "never"),
    ]
    made = helper.make_node
    nodes = [
        made("Gather", ["embedding", "input_ids"], ["e"]),
        made("Gather", ["position", "position_ids"], ["p"]),
        made("Add", ["e", "p"], ["h"]),
    ]
    for name in ("query", "key", "value"):
        nodes += [
            made("MatMul", ["h", name], [f"{name}_flat3"]),
            made("Reshape", [f"{name}_flat3", "split"], [f"{name}_4"]),
            made("Transpose", [f"{name}_4"], [f"{name}_t"], perm=[0, 2, 1, 3]),
        ]
    nodes += [
        made("Concat", ["past_key_values.0.key", "key_t"], ["present.0.key"], axis=2),
        made("Concat", ["past_key_values.0.value", "value_t"], ["present.0.value"], axis=2),
        made("Transpose", ["present.0.key"], ["key_turned"], perm=[0, 1, 3, 2]),
        made("MatMul", ["query_t", "key_turned"], ["raw"]),
        made("Mul", ["raw", "scale"], ["scores"]),
        made("Shape", ["present.0.key"], ["total"], start=2, end=3),
        made("Shape", ["past_key_values.0.key"], ["past"], start=2, end=3),
        made("Squeeze", ["total", "zero"], ["total_flat"]),
        made("Squeeze", ["past", "zero"], ["past_flat"]),
        made("Range", ["zero_flat", "total_flat", "one_flat"], ["columns"]),
        made("Range", ["past_flat", "total_flat", "one_flat"], ["own"]),
        made("Unsqueeze", ["own", "one"], ["own_2"]),
        made("LessOrEqual", ["columns", "own_2"], ["causal"]),
        made("Cast", ["attention_mask"], ["real"], to=TensorProto.BOOL),
        made("Unsqueeze", ["real", "one"], ["real_3"]),
        made("Unsqueeze", ["real_3", "two"], ["real_4"]),
        made("And", ["causal", "real_4"], ["seen"]),
        made("Where", ["seen", "scores", "never"], ["masked"]),
        made("Softmax", ["masked"], ["attention"], axis=-1),
        made("MatMul", ["attention", "present.0.value"], ["mixed"]),
        made("Transpose", ["mixed"], ["mixed_t"], perm=[0, 2, 1, 3]),
        made("Reshape", ["mixed_t", "joined"], ["mixed_3"]),
        made("Add", ["mixed_3", "h"], ["last"]),
        made("MatMul", ["last", "out"], ["unbiased"]),
        made("Add", ["unbiased", "bias"], ["logits"]),
    ]
    info, kinds = helper.make_tensor_value_info, TensorProto
    cache = {"past_key_values.0": "past", "present.0": "total"}
    shapes = {
        f"{name}.{kind}": info(f"{name}.{kind}", kinds.FLOAT, ["rows", HEADS, length, SIZE])
        for name, length in cache.items()
        for kind in ("key", "value")
    }
    graph = helper.make_graph(
        nodes,
        "decoder",
        [
            info("input_ids", kinds.INT64, ["rows", "new"]),
            info("attention_mask", kinds.INT64, ["rows", "total"]),
            info("position_ids", kinds.INT64, ["rows", "new"]),
            *(shapes[f"past_key_values.0.{kind}"] for kind in ("key", "value")),
        ],
        [
            info("logits", kinds.FLOAT, ["rows", "new", len(VOCABULARY)]),
            *(shapes[f"present.0.{kind}"] for kind in ("key", "value")),
        ],
        constants,
    )
    save(graph, path)


def recomputed(table: dict[str, np.ndarray], prompt: Sequence[int], count: int) -> list[int]:
    """The greedy continuation of one prompt, everything computed anew for every token."""
    ids = list(prompt)
    for _ in range(count):
        h = table["embedding"][ids] + table["position"][: len(ids)]
        query, key, value = ((h @ table[name]).reshape(-1, HEADS, SIZE) for name in ("query", "key", "value"))
        mixed = []
        for head in range(HEADS):
            scores = key[:, head] @ query[-1, head] * SIZE**-0.5
            shares = np.exp(scores - scores.max())
            mixed.append(shares / shares.sum() @ value[:, head])
        ids.append(int(((np.concatenate(mixed) + h[-1]) @ table["out"] + table["bias"]).argmax()))
    return ids[len(prompt) :]


def written(table: dict[str, np.ndarray], prompt: str, count: int) -> str:
    """The greedy text."""
    tokens = recomputed(table, letters().encode(prompt).ids, count)
    return "".join(VOCABULARY[token] for token in tokens)


def decoder_bundle(folder: Path, name: str = "writer", *, version: str = "1.0.0", **fields: object) -> Manifest:
    """A complete bundle of the tiny decoder, and its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    decoder(folder / "model.onnx", weights())
    letters().save(str(folder / "tokenizer.json"))
    return Manifest(
        **{
            "name": name,
            "version": version,
            "task": TaskKind.TEXT_GENERATION,
            "variants": (Variant(name="cpu", runtime="onnx", precision="fp32", files=("model.onnx",)),),
            "files": files_of(folder),
            "processing": Processing(tokenizer="tokenizer.json", max_length=CONTEXT, generation=GENERATION),
        }
        | fields
    )
