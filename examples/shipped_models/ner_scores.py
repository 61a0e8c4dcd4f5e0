"""Dev sentences and entity scores of the NER model: an entity counts only with the right kind and both ends."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from examples.shipped_models.crf import KINDS, spans, viterbi
from examples.shipped_models.ner_batches import Encoder, collate
from examples.shipped_models.ner_grammar import Sentence
from examples.shipped_models.ner_model import NerTagger

DEV = Path(__file__).parent / "dev" / "ner.jsonl"
FRESH = DEV.with_name("ner_fresh.jsonl")  # scored at export only: nothing was chosen or written by its errors
Span = tuple[str, int, int]


@dataclass(frozen=True)
class DevItem:
    """One hand-written sentence and its entities."""

    text: str
    entities: frozenset[Span]


def read_dev(path: Path) -> list[DevItem]:
    """The dev sentences of a .jsonl file; every entity's text is checked against its offsets."""
    items = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for entity in row["entities"]:
            if row["text"][entity["start"] : entity["end"]] != entity["text"]:
                raise ValueError(f"offsets do not fit: {line}")
        items.append(DevItem(row["text"], frozenset((e["type"], e["start"], e["end"]) for e in row["entities"])))
    return items


def predict(model: NerTagger, encoder: Encoder, texts: Sequence[str], *, size: int = 50) -> list[list[Span]]:
    """Entities of each text, by the torch model."""
    found: list[list[Span]] = []
    crf = model.crf.arrays()
    for start in range(0, len(texts), size):
        batch = collate([Sentence(text, ()) for text in texts[start : start + size]], encoder)
        with torch.no_grad():
            emissions = model(batch.input_ids, batch.attention_mask, torch.zeros_like(batch.input_ids)).numpy()
        for row, text in zip(emissions, texts[start : start + size], strict=True):
            found.append(spans(viterbi(row[1 : len(text) + 1], crf)))
    return found


def score(gold: Sequence[DevItem], found: Sequence[Sequence[Span]]) -> dict[str, float]:
    """Precision, recall and F1 over all entities, and F1 of each kind."""
    right, expected, answered = Counter[str](), Counter[str](), Counter[str]()
    for item, entities in zip(gold, found, strict=True):
        expected.update(kind for kind, _, _ in item.entities)
        answered.update(kind for kind, _, _ in entities)
        right.update(kind for kind, _, _ in item.entities & set(entities))
    total = {"precision": right.total() / max(1, answered.total()), "recall": right.total() / max(1, expected.total())}
    total["f1"] = 2 * right.total() / max(1, expected.total() + answered.total())
    for kind in KINDS:
        total[f"f1_{kind}"] = 2 * right[kind] / max(1, expected[kind] + answered[kind])
    return {name: round(value, 4) for name, value in total.items()}
