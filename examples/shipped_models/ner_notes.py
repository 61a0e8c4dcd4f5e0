"""What the card of `ner-zh` says of its training and scores, written from measured numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLUMNS = ("f1", "precision", "recall", "f1_PER", "f1_LOC", "f1_ORG")
NOTES = """**What it is.** Chinese named entities (PER, LOC, ORG; 13 BIOES tags) for plain news and posts. A character-level BERT with a
CRF: 3 layers, hidden 160, 4 heads, {parameters:,} parameters, a projection of both neighbours added to each character's
embedding. Runs on onnxruntime; Viterbi over `crf.npz` in numpy.

**Input.** Each code point alone, lower-cased, `[UNK]` where the vocabulary lacks it, `[CLS]` before and `[SEP]` after;
at most 128 tokens at once. Emissions of the characters only go through Viterbi. Weights are stored as fp16, exactly as
they were trained.

**Convention.** Flat and longest. An organisation with a place in its name is one ORG (北京大学); places that form one
address are one LOC (山东省济南市历下区); titles are no part of a name; generic nouns (学校, 公司, 中方) are no entities;
中国队 is ORG; in 中国人 the 中国 is LOC; in 华为手机 the 华为 is ORG.

**Data.** No corpus. All sentences come from this project's own templates and word lists
(`examples/shipped_models/wordlists/ner_*.txt`) and the part-of-speech dictionary of jieba (names, places, filler words),
generated while training: {sentences:,} sentences. While it trains, a second head learns jieba's word boundaries
and classes on the same sentences (which word follows decides where a name ends); that head is not shipped.

**Retrain.** `python -m examples.shipped_models.train_ner --steps 13000` (25 to 60 minutes on one core with bf16 units).
These weights took {minutes:.0f} minutes of a shared core in {stage_count} stage(s), each going on from the last with a wider grammar
(`--start-from`): {stages}.

**Scores** (entity F1: kind and both ends right). The {dev_count} dev sentences flatter: checkpoints were chosen on them,
and templates were added after seeing their errors. The {fresh_count} fresh sentences, by the same author, were scored at export
only.

| Sentences | Variant | F1 | precision | recall | PER | LOC | ORG |
|---|---|---|---|---|---|---|---|
{rows}

int8 against fp32 on {generated:.0f} generated sentences: {agreement:.2%} of entities, {equal:.1%} of sentences equal.

Held-out (hand-written, scored once): pending

**Limits.** Rare or unseen organisation names without a telling suffix, shop and product names, place names that are
also words, nicknames, and where a name ends when a verb follows that could be part of it. Ancient texts, dialect, and
text with many Latin names were not in the training data. One sentence at a time gives the best answers.
"""


def write_notes(path: Path, description: dict[str, Any], dev_count: int, fresh_count: int) -> None:
    """Fill the notes; `description` is the content of model.json."""
    rows = [
        f"| {kind} | {name} | " + " | ".join(f"{row[key]:.3f}" for key in COLUMNS) + " |"
        for kind in ("dev", "fresh")
        for name, row in description[f"{kind}_scores"].items()
    ]
    trained, agreement = description["trained"], description["int8_agreement"]
    text = NOTES.format(
        parameters=trained["parameters"],
        sentences=trained["sentences"],
        stage_count=len(trained["stages"]),
        stages="; ".join(f"seed {stage['seed']}, {stage['steps']} steps" for stage in trained["stages"]),
        minutes=trained["seconds"] / 60,
        dev_count=dev_count,
        fresh_count=fresh_count,
        rows="\n".join(rows),
        generated=agreement["generated_sentences"],
        agreement=agreement["entity_agreement"],
        equal=agreement["sentences_equal"],
    )
    path.write_text(text, encoding="utf-8")
