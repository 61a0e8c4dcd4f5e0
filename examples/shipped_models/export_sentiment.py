"""Writes the source folder of sentiment-zh from checkpoints; several checkpoints are averaged weight by weight.

The vocabulary and the record of training are the last checkpoint's; the others should be of the same line (`--start`).

    python -m examples.shipped_models.export_sentiment sentiment.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from examples.shipped_models.encoder import EncoderShape, round_to_fp16
from examples.shipped_models.sentiment_grammar import SentenceMaker
from examples.shipped_models.source_folder import (
    SOURCES,
    Floats,
    check_against_torch,
    check_batch_mates,
    write_json,
    write_models,
)
from examples.shipped_models.train_sentiment import LABELS, MAX_LENGTH, SentimentModel, read_dev
from examples.shipped_models.training_loop import continue_from

FOLDER = SOURCES / "sentiment-zh"
HELD_OUT = "Held-out (hand-written, scored once): pending"
NOTES = """**What it is.** A character-level BERT ({layers} layers, {hidden} wide, {parameters:,} parameters) that tells whether a
short Chinese review is 正面 or 负面. Inputs `input_ids`, `attention_mask`, `token_type_ids`; output `logits`
[batch, 2] in the order 负面, 正面. Weights are stored as fp16, exactly as they were trained.

**Data.** {sentences:,} generated sentences from a hand-written phrase bank and grammar
(`examples/shipped_models/wordlists`, `sentiment_grammar.py`, `everyday_turns.py`), with SnowNLP's word counts as a weak
teacher for a small share of pseudo-sentences. No review texts, no downloaded weights or data sets.

**Retrain.** `python -m examples.shipped_models.train_sentiment`, then
`python -m examples.shipped_models.export_sentiment sentiment.pt`. These weights took {seconds} s on one CPU thread,
in {stages} stages: the phrase bank grew between them and each went on from the one before (`--start`); seed {seed} is the
last one's. The last {averaged} stages' weights are averaged. A run
from scratch with the default steps gives the same kind of model, not the same numbers.

**Scores.** dev ({dev_items} hand-written sentences, used to choose the checkpoint, and their error classes seen
while the grammar was extended, so optimistic): accuracy {accuracy:.3f} as fp32, {int8_accuracy:.3f} as int8.
int8 gives the same label as fp32 on {agreement:.1%} of 1000 generated sentences.
{held_out}

**Limits.** Two classes only: a neutral text still gets one of them. Trained on short reviews; news, irony, slang coined
lately, and faults told without any word of judgement are where it errs. Expect clearly less than the dev score on texts
far from product, shop and service reviews.
"""


def softmax(logits: Floats) -> Floats:
    """Probabilities of each row."""
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def golden_items(texts: list[str], scores: Floats) -> list[dict[str, object]]:
    """Inputs with the label and score that fp32 gives them."""
    best = scores.argmax(-1)
    return [
        {"text": text, "expect": {"label": LABELS[place], "score": round(float(row[place]), 6)}}
        for text, row, place in zip(texts, scores, best, strict=True)
    ]


def export(checkpoints: list[Path]) -> None:
    """Average, round, write, check and describe."""
    states = [torch.load(path) for path in checkpoints]
    vocabulary = states[-1]["vocabulary"]
    shape = EncoderShape(len(vocabulary), max_length=MAX_LENGTH)
    model = SentimentModel(shape)
    models = [SentimentModel(shape) for _ in states]
    for one, state in zip(models, states, strict=True):
        continue_from(one, state, vocabulary)
    weights = [one.state_dict() for one in models]
    model.load_state_dict({name: sum(one[name] for one in weights) / len(weights) for name in weights[0]})
    round_to_fp16(model)
    fp32, int8 = runners = write_models(model, "logits", vocabulary, MAX_LENGTH, FOLDER)

    dev = read_dev()
    texts, truth = [text for text, _ in dev], np.array([label for _, label in dev])
    maker = SentenceMaker(seed=987_654)
    generated = [maker.labelled()[0] for _ in range(1000)]
    dev_scores = {name: float((runner.run(texts, 32).argmax(-1) == truth).mean())
                  for name, runner in zip(("fp32", "int8"), runners, strict=True)}  # fmt: skip
    wide, narrow = fp32.run(generated, 32), int8.run(generated, 32)
    agreement = {
        "labels": float((wide.argmax(-1) == narrow.argmax(-1)).mean()),
        "labels_dev": float((fp32.run(texts, 32).argmax(-1) == int8.run(texts, 32).argmax(-1)).mean()),
        "largest_score_change": round(float(np.abs(softmax(wide) - softmax(narrow)).max()), 4),
        "sentences": len(generated),
        "batch_mates": check_batch_mates(runners, generated[:200] + texts),
        "torch_difference": check_against_torch(model, fp32, texts),
    }
    if agreement["labels"] < 0.99:
        raise ValueError(f"int8 strays from fp32: {agreement}")
    trained = states[-1]["trained"] | {"averaged": len(states)}
    card = {
        "name": "sentiment-zh", "version": "1.0.0", "task": "text-classification", "labels": LABELS,
        "max_length": MAX_LENGTH, "processing": {"lowercase": True, "clean_text": True, "handle_chinese_chars": True},
        "dev_scores": {"accuracy": round(dev_scores["fp32"], 4), "accuracy_int8": round(dev_scores["int8"], 4),
                       "items": len(dev)},
        "int8_agreement": agreement, "trained": trained, "plain_int8": True,
    }  # fmt: skip
    write_json(FOLDER / "model.json", card)
    picked = texts[:: max(1, len(texts) // 20)][:20]
    write_json(FOLDER / "golden.json", {
        "items": golden_items(picked, softmax(fp32.run(picked, 1))),
        "tolerances": {"cpu-fp32": 1e-4, "cpu-int8": 0.1},
    })  # fmt: skip
    (FOLDER / "notes.md").write_text(NOTES.format(
        layers=shape.layers, hidden=shape.hidden, parameters=trained["parameters"],
        sentences=trained["sentences"], seed=trained["seed"], stages=trained["stages"],
        averaged=trained["averaged"], seconds=trained["seconds"], dev_items=len(dev),
        accuracy=dev_scores["fp32"], int8_accuracy=dev_scores["int8"], agreement=agreement["labels"],
        held_out=HELD_OUT,
    ), encoding="utf-8")  # fmt: skip
    print(card)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    export(parser.parse_args().checkpoints)


if __name__ == "__main__":
    main()
