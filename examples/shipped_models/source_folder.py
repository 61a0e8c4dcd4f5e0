"""Writes a model's source folder (what `release` has the importer turn into a bundle) and checks what it wrote.

Beside the fp32 program lies the int8 one as the importer will make it, only to be scored. Both are run by ONNX Runtime here, and
the folder is refused where padding or batch mates change an answer, or where int8 strays from fp32.
"""

from __future__ import annotations

import io
import json
import random
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from cloud_core.importer.fp16_weights import store_weights_as_fp16
from cloud_core.importer.int8_per_token import quantize_per_token
from examples.shipped_models.tokenizer import build_tokenizer, save_tokenizer
from examples.shipped_models.training_loop import encode, pad

SOURCES = Path(__file__).parents[2] / "build" / "sources"
INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
Floats = NDArray[np.float32]


def trace(model: nn.Module, output: str) -> onnx.ModelProto:
    """The model as an fp32 ONNX graph of opset 17 with free batch and sequence sizes."""
    ids = torch.randint(5, 100, (2, 9))
    axes = {name: {0: "batch", 1: "sequence"} for name in INPUTS} | {output: {0: "batch"}}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (ids, torch.ones_like(ids), torch.zeros_like(ids)), buffer, dynamo=False, opset_version=17,
            input_names=INPUTS, output_names=[output], dynamic_axes=axes,
        )  # fmt: skip
    graph = onnx.load_from_string(buffer.getvalue())
    for node in graph.graph.node:
        node.doc_string = ""
    return graph


@dataclass
class Runner:
    """One model file in ONNX Runtime, with the tokenizer that feeds it."""

    path: Path
    vocabulary: list[str]
    max_length: int

    def __post_init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        self.tokenizer = build_tokenizer(self.vocabulary)

    def run(self, texts: list[str], batch: int) -> Floats:
        """Outputs of all texts, `batch` at a time, padded to the longest of each batch."""
        rows = encode(self.tokenizer, texts, self.max_length)
        parts = [self._run_rows(rows[start : start + batch]) for start in range(0, len(rows), batch)]
        return np.concatenate(parts)

    def _run_rows(self, rows: list[list[int]]) -> Floats:
        inputs = [tensor.numpy() for tensor in pad(rows).inputs()]
        return self.session.run(None, dict(zip(INPUTS, inputs, strict=True)))[0]


def cosines(left: Floats, right: Floats) -> Floats:
    """Row-wise cosine similarity."""
    return (left * right).sum(-1) / np.maximum(np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1), 1e-12)


def write_models(model: nn.Module, output: str, vocabulary: list[str], max_length: int, folder: Path) -> list[Runner]:
    """Write the program and the tokenizer; return a runner of the fp32 and of the int8 form."""
    save_tokenizer(vocabulary, folder)
    (folder / "vocab.txt").unlink()  # tokenizer.json holds it
    return [Runner(path, vocabulary, max_length) for path in write_programs(trace(model, output), folder)]


def write_programs(graph: onnx.ModelProto, folder: Path) -> tuple[Path, Path]:
    """The fp32 program, and the int8 one that is only scored."""
    folder.mkdir(parents=True, exist_ok=True)
    fp32, int8 = folder / "model.fp32.onnx", folder / "scored.int8.onnx"
    store_weights_as_fp16(graph)
    onnx.save(graph, str(fp32))
    quantize_per_token(graph)
    onnx.save(graph, str(int8))
    return fp32, int8


def check_batch_mates(runners: list[Runner], texts: list[str], seed: int = 0) -> dict[str, float]:
    """The largest change that a mixed, padded batch makes to an answer given alone, per variant."""
    shuffled = list(texts)
    random.Random(seed).shuffle(shuffled)
    worst = {}
    for runner, name in zip(runners, ("fp32", "int8"), strict=True):
        alone, together = runner.run(shuffled, 1), runner.run(shuffled, 16)
        worst[name + "_largest_change"] = float(np.abs(alone - together).max())
        worst[name + "_least_cosine"] = float(cosines(alone, together).min())
        if name == "int8" and (alone.argmax(-1) != together.argmax(-1)).any() and alone.shape[-1] < 16:
            raise ValueError("an int8 label depends on batch mates")
    if worst["fp32_largest_change"] > 1e-5 or worst["int8_least_cosine"] < 0.9999:
        raise ValueError(f"answers depend on batch mates: {worst}")
    return {name: round(value, 8) for name, value in worst.items()}


def check_against_torch(model: nn.Module, runner: Runner, texts: list[str]) -> float:
    """The largest difference between ONNX Runtime and torch."""
    rows = encode(runner.tokenizer, texts, runner.max_length)
    with torch.no_grad():
        wanted = model.eval()(*pad(rows).inputs()).numpy()
    return float(np.abs(wanted - runner.run(texts, len(texts))).max())


def write_json(path: Path, value: object) -> None:
    """Readable, stable JSON."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
