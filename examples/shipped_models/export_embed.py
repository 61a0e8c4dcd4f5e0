"""Writes the source folder of embed-zh from checkpoints; several checkpoints are averaged weight by weight.

python -m examples.shipped_models.export_embed embed.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from examples.shipped_models.embed_pairs import PairMaker
from examples.shipped_models.encoder import round_to_fp16
from examples.shipped_models.polarity_teacher import frequent_words
from examples.shipped_models.source_folder import (
    SOURCES,
    Floats,
    check_against_torch,
    check_batch_mates,
    cosines,
    write_json,
    write_models,
)
from examples.shipped_models.tokenizer import build_tokenizer
from examples.shipped_models.train_embed import MAX_LENGTH, EmbedModel, embed_shape, read_dev, score

FOLDER = SOURCES / "embed-zh"
HELD_OUT = "Held-out (hand-written, scored once): pending"
NOTES = """**What it is.** A character-level BERT ({layers} layers, {hidden} wide, {parameters:,} parameters) that turns a short
Chinese text into a unit vector of {hidden} numbers; texts of like meaning lie near each other (cosine = dot product).
Inputs `input_ids`, `attention_mask`, `token_type_ids`; output `embedding` [batch, {hidden}], state of [CLS], L2-normalised
in the graph. Weights are stored as fp16, exactly as they were trained.

**Data.** {sentences:,} generated texts: a hand-written phrase bank said in two ways, reworded event clauses, about 120
intents asked in several ways, and random dictionary words in changed order and dress. In-batch InfoNCE with hard
negatives. No downloaded weights or data sets.

**Retrain.** `python -m examples.shipped_models.train_embed --seed {seed}` ({seconds} s on one CPU thread), then
`python -m examples.shipped_models.export_embed embed.pt`.

**Scores.** dev ({triplets} hand-written triplets, used to choose the checkpoint, so optimistic): near nearer than far
{triplet_accuracy:.3f}; near is the nearest of all {texts} dev texts {retrieval_first:.3f}.
int8 against fp32 on {compared} texts: cosine mean {cosine_mean:.4f}, least {cosine_min:.4f}.
{held_out}

**Limits.** Small vocabulary of meanings: outside reviews, household questions and device messages it goes mostly by
shared words, and a synonym it has not seen is a stranger. Negation is caught often, not always. Long texts are cut.
Vectors of another version of this model are not comparable with these.
"""


def golden_items(texts: list[str], vectors: Floats) -> list[dict[str, object]]:
    """Inputs with the first eight numbers of their fp32 vector."""
    return [
        {"text": text, "expect": {"embedding": [round(float(x), 6) for x in row[:8]],
                                  "norm": round(float(np.linalg.norm(row)), 6)}}
        for text, row in zip(texts, vectors, strict=True)
    ]  # fmt: skip


def export(checkpoints: list[Path]) -> None:
    """Average, round, write, check and describe."""
    states = [torch.load(path) for path in checkpoints]
    vocabulary = states[0]["vocabulary"]
    shape = embed_shape(len(vocabulary))
    model = EmbedModel(shape)
    names = states[0]["weights"]
    model.load_state_dict({name: sum(state["weights"][name] for state in states) / len(states) for name in names})
    round_to_fp16(model)
    fp32, int8 = runners = write_models(model, "embedding", vocabulary, MAX_LENGTH, FOLDER)

    dev = read_dev()
    texts = [item[part] for item in dev for part in ("anchor", "near", "far")]
    maker = PairMaker(987_654, frequent_words())
    generated = [maker.triple().anchor for _ in range(1000)]
    wide, narrow = fp32.run([*generated, *texts], 32), int8.run([*generated, *texts], 32)
    alike = cosines(wide, narrow)
    agreement = {
        "cosine_mean": round(float(alike.mean()), 5),
        "cosine_min": round(float(alike.min()), 5),
        "sentences": len(alike),
        "batch_mates": check_batch_mates(runners, generated[:200] + texts),
        "torch_difference": check_against_torch(model, fp32, texts),
    }
    if agreement["cosine_mean"] < 0.995 or agreement["cosine_min"] < 0.99:
        raise ValueError(f"int8 strays from fp32: {agreement}")
    dev_scores = score(model, build_tokenizer(vocabulary))
    vectors = int8.run(texts, 32).reshape(-1, 3, shape.hidden)
    nearer = (vectors[:, 0] * (vectors[:, 1] - vectors[:, 2])).sum(-1) > 0
    trained = states[0]["trained"]
    write_json(FOLDER / "model.json", {
        "name": "embed-zh", "version": "1.0.0", "task": "text-embedding", "dimension": shape.hidden,
        "max_length": MAX_LENGTH, "processing": {"lowercase": True, "clean_text": True, "handle_chinese_chars": True},
        "pooling": "cls", "normalize": True,
        "dev_scores": dev_scores | {"triplet_accuracy_int8": float(nearer.mean())},
        "int8_agreement": agreement, "trained": trained, "plain_int8": True,
    })  # fmt: skip
    picked = texts[:: max(1, len(texts) // 20)][:20]
    write_json(FOLDER / "golden.json", {
        "items": golden_items(picked, fp32.run(picked, 1)),
        "tolerances": {"cpu-fp32": 1e-4, "cpu-int8": 0.1},
    })  # fmt: skip
    (FOLDER / "notes.md").write_text(NOTES.format(
        layers=shape.layers, hidden=shape.hidden, held_out=HELD_OUT, texts=2 * len(dev), compared=len(alike),
        **dev_scores, **trained, cosine_mean=agreement["cosine_mean"], cosine_min=agreement["cosine_min"],
    ), encoding="utf-8")  # fmt: skip
    print(dev_scores, agreement)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    export(parser.parse_args().checkpoints)


if __name__ == "__main__":
    main()
