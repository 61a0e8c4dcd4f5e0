"""Write the `ner-zh` source folder: the ONNX program, CRF, tokenizer, description, golden answers; and check them.

Every number in model.json and notes.md is measured here on the files as written, by onnxruntime: parity with torch,
that padding and batch mates change nothing, and how often int8 finds the same entities as fp32.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from examples.shipped_models.crf import TAGS, spans, viterbi
from examples.shipped_models.encoder import round_to_fp16
from examples.shipped_models.ner_batches import Encoder, collate
from examples.shipped_models.ner_grammar import Grammar, Sentence
from examples.shipped_models.ner_model import NerTagger
from examples.shipped_models.ner_notes import write_notes
from examples.shipped_models.ner_scores import DEV, FRESH, Span, predict, read_dev, score
from examples.shipped_models.source_folder import write_programs
from examples.shipped_models.tokenizer import save_tokenizer

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
MAX_LENGTH = 128
GENERATED = 500
GENERATED_SEED = 20_261_121
GOLDEN = 22


class Served:
    """A model file as the platform runs it: onnxruntime, then Viterbi over the characters."""

    def __init__(self, path: Path, crf: dict[str, NDArray[np.float32]], encoder: Encoder) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.crf = crf
        self.encoder = encoder

    def emissions(self, texts: Sequence[str], *, padding: int = 0) -> list[NDArray[np.float32]]:
        """Emissions of each text's characters, all texts in one batch padded by `padding` more."""
        batch = collate([Sentence(text, ()) for text in texts], self.encoder)
        ids = np.pad(batch.input_ids.numpy(), ((0, 0), (0, padding)))
        mask = np.pad(batch.attention_mask.numpy(), ((0, 0), (0, padding)))
        fed = dict(zip(INPUTS, (ids, mask, np.zeros_like(ids)), strict=True))
        rows = self.session.run(["emissions"], fed)[0]
        return [row[1 : len(text) + 1] for row, text in zip(rows, texts, strict=True)]

    def entities(self, texts: Sequence[str], *, size: int = 1) -> list[list[Span]]:
        """Entities of each text, `size` texts to a batch."""
        found = []
        for start in range(0, len(texts), size):
            found.extend(spans(viterbi(row, self.crf)) for row in self.emissions(texts[start : start + size]))
        return found


def to_onnx(model: NerTagger) -> onnx.ModelProto:
    """The fp32 graph, opset 17, with dynamic batch and length."""
    example = torch.tensor([[2, 300, 301, 302, 3], [2, 400, 401, 3, 0]])
    mask = (example > 0).to(torch.int64)
    axes = {name: {0: "batch", 1: "seq"} for name in (*INPUTS, "emissions")}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (example, mask, torch.zeros_like(example)),
            buffer,
            input_names=list(INPUTS),
            output_names=["emissions"],
            dynamic_axes=axes,
            dynamo=False,
            opset_version=17,
        )
    return onnx.load_from_string(buffer.getvalue())


def described(text: str, entities: Sequence[Span]) -> list[dict[str, str | int]]:
    """Entities in the form of golden.json."""
    return [{"type": kind, "start": start, "end": end, "text": text[start:end]} for kind, start, end in entities]


def check(served: dict[str, Served], model: NerTagger, encoder: Encoder) -> dict[str, float]:
    """Measure what the files promise; raise where they do not keep it."""
    grammar = Grammar(GENERATED_SEED)
    texts = [grammar.sentence().text for _ in range(GENERATED)]
    fp32, int8 = served["fp32"], served["int8"]
    single = fp32.entities(texts)
    narrow = int8.entities(texts)
    torch_agrees = sum(a == b for a, b in zip(predict(model, encoder, texts), single, strict=True)) / len(texts)
    result: dict[str, float] = {"torch_sentences_equal": torch_agrees}
    for name, one in served.items():
        alone = [one.emissions([text], padding=0)[0] for text in texts[:64]]
        padded = [one.emissions([text], padding=9)[0] for text in texts[:64]]
        batch = one.emissions(texts[:64])
        result[f"{name}_padding_difference"] = max(
            float(np.abs(a - b).max()) for a, b in zip(alone, padded, strict=True)
        )
        result[f"{name}_batch_difference"] = max(float(np.abs(a - b).max()) for a, b in zip(alone, batch, strict=True))
    result["int8_batched_equals_single"] = float(int8.entities(texts, size=32) == narrow)
    both = sum(len(set(a) & set(b)) for a, b in zip(single, narrow, strict=True))
    result["entity_agreement"] = 2 * both / max(1, sum(map(len, single)) + sum(map(len, narrow)))
    result["sentences_equal"] = sum(a == b for a, b in zip(single, narrow, strict=True)) / len(texts)
    result["generated_sentences"] = len(texts)
    if result["fp32_batch_difference"] > 1e-5 or result["fp32_padding_difference"] > 1e-5:
        raise RuntimeError(f"fp32 depends on its batch: {result}")
    if result["entity_agreement"] < 0.99 or not result["int8_batched_equals_single"] or torch_agrees < 0.995:
        raise RuntimeError(f"int8 or the export does not agree: {result}")
    return {name: float(f"{value:.4g}") for name, value in result.items()}


def export(model: NerTagger, vocabulary: list[str], out: Path, trained: dict[str, object]) -> None:
    """Write and check the whole folder."""
    out.mkdir(parents=True, exist_ok=True)
    round_to_fp16(model)
    crf = model.crf.arrays()
    np.savez(out / "crf.npz", **crf)
    save_tokenizer(vocabulary, out)
    (out / "vocab.txt").unlink()
    encoder = Encoder(vocabulary)
    programs = zip(("fp32", "int8"), write_programs(to_onnx(model), out), strict=True)
    served = {name: Served(path, crf, encoder) for name, path in programs}
    agreement = check(served, model, encoder)
    dev, fresh = read_dev(DEV), read_dev(FRESH)
    texts = [item.text for item in dev]
    scores = {name: score(dev, one.entities(texts)) for name, one in served.items()}
    unseen = {name: score(fresh, one.entities([item.text for item in fresh])) for name, one in served.items()}
    golden = [
        {"text": item.text, "expect": {"entities": described(item.text, found)}}
        for item, found in zip(dev, served["fp32"].entities(texts), strict=True)
        if set(found) == item.entities
    ]
    picked = golden[:: max(1, len(golden) // GOLDEN)][:GOLDEN]
    description = {
        "name": "ner-zh",
        "version": "1.0.0",
        "task": "token-classification",
        "labels": list(TAGS),
        "max_length": MAX_LENGTH,
        "char_level": True,
        "processing": {"lowercase": True},
        "dev_scores": scores,
        "fresh_scores": unseen,
        "int8_agreement": agreement,
        "trained": trained,
        "plain_int8": True,
    }
    _write_json(out / "model.json", description)
    _write_json(out / "golden.json", {"items": picked})
    write_notes(out / "notes.md", description, len(dev), len(fresh))
    print(json.dumps(description, ensure_ascii=False, indent=1))


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
