"""Train and export `ner-zh`: `python -m examples.shipped_models.train_ner`.

Sentences are generated while it trains, so no data set is read. An exponential average of the weights is what is
scored on the dev sentences and shipped; the best of its checkpoints by dev F1 wins. Several seeds make several runs,
and the best run by dev is exported. Equal seeds and steps on one kind of CPU give equal weights.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import torch
from torch import nn

from examples.shipped_models.encoder import EncoderShape, count_parameters
from examples.shipped_models.ner_batches import Batch, Encoder, batches, ner_vocabulary
from examples.shipped_models.ner_export import export
from examples.shipped_models.ner_grammar import Grammar
from examples.shipped_models.ner_model import NerTagger
from examples.shipped_models.ner_scores import DEV, predict, read_dev, score
from examples.shipped_models.ner_segments import WORD_TAGS

TARGET = Path(__file__).parents[2] / "build" / "sources" / "ner-zh"
VOCABULARY = 4800
BATCH = 64
PEAK_RATE = 8e-4
WARM_UP = 200
SEGMENTING = 1.0


def ner_shape() -> EncoderShape:
    """Small enough that both variants together stay below 5.2 MB."""
    return EncoderShape(vocabulary=VOCABULARY, hidden=160, layers=3, heads=4, ffn=512, max_length=128, dropout=0.1)


def learning_rate(step: int, done: float) -> float:
    """Linear warm-up, flat to 40 % of the run, cosine to a twentieth at its end."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    falling = max(0.0, (done - 0.4) / 0.6)
    return PEAK_RATE * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * falling)))


def average_into(average: nn.Module, model: nn.Module, keep: float) -> None:
    """Exponential moving average of the weights."""
    with torch.no_grad():
        for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast, 1.0 - keep)


def batch_losses(
    model: NerTagger,
    segmenter: nn.Linear,
    batch: Batch,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """CRF and segmentation loss of one batch, now and then read at later positions; bf16 where that is enough."""
    room = model.encoder.shape.max_length - batch.input_ids.shape[1]
    shifted = float(torch.rand((), generator=generator)) < 0.3 and room > 0
    model.first_position = int(torch.randint(room + 1, (), generator=generator)) if shifted else 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = model.states(batch.input_ids, batch.attention_mask, torch.zeros_like(batch.input_ids))[:, 1:-1]
        emissions, words = model.head(states).float(), segmenter(states).float()
    model.first_position = 0
    named = model.crf.loss(emissions, batch.tags, batch.character_mask)
    cut = nn.functional.cross_entropy(words.flatten(0, 1), batch.words.flatten(), ignore_index=-100)
    return named, cut


def train(
    *,
    seed: int,
    steps: int,
    longest: float,
    check_every: int,
    vocabulary: list[str],
    checkpoint: Path,
    start_from: Path | None = None,
) -> dict[str, float]:
    """One run; the best averaged weights are saved at `checkpoint`. `start_from` is an earlier run's checkpoint.

    It ends after `steps`, or where the machine is slow after `longest` seconds; the learning rate falls accordingly.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    encoder = Encoder(vocabulary)
    model = NerTagger(ner_shape())
    segmenter = nn.Linear(model.encoder.shape.hidden, WORD_TAGS)
    stages: list[dict[str, float]] = []
    if start_from is not None:
        earlier = torch.load(start_from, weights_only=True)
        if earlier["vocabulary"] != vocabulary:
            raise ValueError(f"{start_from} has another vocabulary")
        model.load_state_dict(earlier["weights"])
        stages = earlier["stages"]
    average = copy.deepcopy(model).eval()
    parameters = [*model.parameters(), *segmenter.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    stream = batches(Grammar(seed), encoder, size=BATCH, seed=seed)
    started, best, running = time.monotonic(), {"f1": -1.0}, [0.0, 0.0]
    for step in range(steps):
        done = max(step / steps, (time.monotonic() - started) / longest)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, done)
        named, cut = batch_losses(model.train(), segmenter, next(stream), generator)
        optimizer.zero_grad(set_to_none=True)
        (named + SEGMENTING * cut).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average_into(average, model, min(0.999, (step + 1) / (step + 10)))
        running = [old + (new.item() - old) * 0.02 for old, new in zip(running, (named, cut), strict=True)]
        ends = step + 1 == steps or done >= 1.0
        if (step + 1) % check_every == 0 or ends:
            result = score(read_dev(DEV), predict(average, encoder, [item.text for item in read_dev(DEV)]))
            seconds = time.monotonic() - started
            print(
                f"seed {seed} step {step + 1} losses {running[0]:.3f} {running[1]:.3f} {seconds:.0f} s dev {result}",
                flush=True,
            )
            if result["f1"] >= best["f1"]:
                best = result | {"step": step + 1, "seconds": round(seconds), "seed": seed}
                done_stages = [*stages, {"seed": seed, "steps": step + 1, "seconds": round(seconds)}]
                state = {"weights": average.state_dict(), "vocabulary": vocabulary, "best": best, "stages": done_stages}
                torch.save(state, checkpoint)
        if ends:
            break
    return best


def main() -> None:
    """Train every seed, export the best by dev."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--longest", type=float, default=3600.0, help="seconds for one seed at most")
    parser.add_argument("--check-every", type=int, default=500)
    parser.add_argument("--start-from", type=Path, help="go on from this checkpoint instead of random weights")
    parser.add_argument("--work", type=Path, default=Path("/tmp/ner-zh-training"))
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    vocabulary = ner_vocabulary(VOCABULARY)
    runs = {}
    for seed in options.seeds:
        checkpoint = options.work / f"seed{seed}.pt"
        runs[checkpoint] = train(
            seed=seed,
            steps=options.steps,
            longest=options.longest,
            check_every=options.check_every,
            vocabulary=vocabulary,
            checkpoint=checkpoint,
            start_from=options.start_from,
        )
        print(f"seed {seed} best {runs[checkpoint]}", flush=True)
    chosen = max(runs, key=lambda path: runs[path]["f1"])
    export_checkpoint(chosen, options.out)


def export_checkpoint(checkpoint: Path, out: Path) -> None:
    """Export a saved run, with what it took to train it: all stages that led to these weights."""
    state = torch.load(checkpoint, weights_only=True)
    model = NerTagger(ner_shape())
    model.load_state_dict(state["weights"])
    trained = {
        "seed": state["stages"][-1]["seed"],
        "seconds": sum(stage["seconds"] for stage in state["stages"]),
        "sentences": sum(stage["steps"] for stage in state["stages"]) * BATCH,
        "parameters": count_parameters(model),
        "stages": state["stages"],
    }
    export(model.eval(), state["vocabulary"], out, trained)


if __name__ == "__main__":
    main()
