"""Trains sentiment-zh on generated sentences and writes its source folder.

    python -m examples.shipped_models.train_sentiment --steps 12000 --seed 1

One thread is enough. The checkpoint is the weight average that scores best on dev/sentiment.jsonl; nothing else of the
dev set is used, and the held-out set is not read by any code here.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from examples.shipped_models.clause_marks import plain
from examples.shipped_models.encoder import CharEncoder, EncoderShape, count_parameters, mean_over_tokens, round_to_fp16
from examples.shipped_models.phrase_bank import load_bank
from examples.shipped_models.polarity_teacher import Teacher
from examples.shipped_models.sentiment_grammar import SentenceMaker
from examples.shipped_models.tokenizer import build_tokenizer, build_vocabulary
from examples.shipped_models.training_loop import (
    WeightAverage,
    continue_from,
    encode,
    half_precision,
    make_optimiser,
    pad,
    rate_at,
    spoil,
    take_step,
)

LABELS = ["负面", "正面"]
VOCABULARY = 4540
MAX_LENGTH = 128
HERE = Path(__file__).parent
SURE = 0.97
UNJUDGED = -100


class SentimentModel(nn.Module):
    """Encoder, average over tokens, two logits in the order of LABELS."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.encoder = CharEncoder(shape)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(shape.hidden, len(LABELS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        states = self.encoder(input_ids, attention_mask, token_type_ids)
        return self.judge(states, attention_mask)

    def judge(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.dropout(mean_over_tokens(states, attention_mask)))


class Drawn(NamedTuple):
    """Token ids, the probability that the text is good, and each token's clause polarity (UNJUDGED outside clauses)."""

    ids: list[int]
    good: float
    sides: list[int]


class SentenceStream:
    """Batches of generated sentences with soft labels, sorted into similar lengths."""

    def __init__(self, tokenizer: Tokenizer, seed: int, batch: int, pseudo_share: float) -> None:
        self.tokenizer = tokenizer
        self.random = random.Random(seed)
        self.teacher = Teacher(seed + 1)
        nouns = [word.text for word in self.teacher.words if word.tag == "n" and len(word.text) > 1]
        self.maker = SentenceMaker(seed + 2, nouns)
        self.batch = batch
        self.pseudo_share = pseudo_share
        self.drawn = 0
        self.ready: list[list[Drawn]] = []

    def _draw(self) -> Drawn:
        draw = self.random.random()
        if draw < self.pseudo_share:
            text, chance = self.teacher.pseudo_sentence()
            sides = [UNJUDGED] * len(text)
        else:
            good = self.random.randrange(2)
            marked = self.maker.marked(good)
            if draw > 0.97:
                marked += "".join(self.maker.marked(good) for _ in range(self.random.randint(1, 5)))
            text, sides = plain(marked)
            chance = SURE if good else 1 - SURE
        encoded = self.tokenizer.encode(text)
        tags = [sides[start] if stop > start else UNJUDGED for start, stop in encoded.offsets]
        ids = spoil(encoded.ids[:MAX_LENGTH], self.random, VOCABULARY, rate=0.07)
        return Drawn(ids, chance, tags[:MAX_LENGTH])

    def next(self) -> list[Drawn]:
        if not self.ready:
            drawn = sorted((self._draw() for _ in range(self.batch * 32)), key=lambda item: len(item.ids))
            self.ready = [drawn[start : start + self.batch] for start in range(0, len(drawn), self.batch)]
            self.random.shuffle(self.ready)
        self.drawn += self.batch
        return self.ready.pop()


def read_dev() -> list[tuple[str, int]]:
    """The dev sentences and their label ids."""
    lines = (HERE / "dev" / "sentiment.jsonl").read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    return [(item["text"], LABELS.index(item["label"])) for item in items]


@torch.no_grad()
def probabilities(model: nn.Module, tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """The probability of 正面 of each text."""
    model.eval()
    return torch.softmax(model(*pad(encode(tokenizer, texts, MAX_LENGTH)).inputs()), dim=-1)[:, 1]


def score(model: nn.Module, tokenizer: Tokenizer, items: list[tuple[str, int]]) -> tuple[float, float, list[str]]:
    """Accuracy, log loss, and the texts that are judged wrongly."""
    truth = torch.tensor([label for _, label in items])
    good = probabilities(model, tokenizer, [text for text, _ in items])
    wrong = [text for (text, label), chance in zip(items, good.tolist(), strict=True) if (chance > 0.5) != bool(label)]
    loss = nn.functional.binary_cross_entropy(good.clamp(1e-4, 1 - 1e-4), truth.float())
    return 1 - len(wrong) / len(items), loss.item(), wrong


def training_loss(model: SentimentModel, clause_head: nn.Linear, items: list[Drawn]) -> Tensor:
    """The sentence's own loss plus that of telling each token's clause; the second speeds learning up and is not kept."""
    batch = pad([item.ids for item in items])
    sides = torch.full_like(batch.ids, UNJUDGED)
    for place, item in enumerate(items):
        sides[place, : len(item.sides)] = torch.tensor(item.sides)
    good = torch.tensor([item.good for item in items])
    with half_precision():
        states = model.encoder(*batch.inputs())
        logits, clauses = model.judge(states, batch.mask), clause_head(states)
    chances = torch.log_softmax(logits.float(), dim=-1)
    whole = -(good * chances[:, 1] + (1 - good) * chances[:, 0]).mean()
    return whole + nn.functional.cross_entropy(clauses.float().flatten(0, 1), sides.flatten(), ignore_index=UNJUDGED)


def train(arguments: argparse.Namespace, vocabulary: list[str]) -> tuple[SentimentModel, dict[str, float]]:
    """The best weight average, and how it was trained."""
    tokenizer = build_tokenizer(vocabulary)
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    model = SentimentModel(EncoderShape(VOCABULARY, max_length=MAX_LENGTH))
    earlier = {"seconds": 0.0, "sentences": 0, "stages": 0}
    if arguments.start:
        checkpoint = torch.load(arguments.start)
        continue_from(model, checkpoint, vocabulary)
        earlier = checkpoint["trained"]
    average = WeightAverage(model, decay=0.998)
    clause_head = nn.Linear(model.encoder.shape.hidden, 3)
    optimiser = make_optimiser(nn.ModuleList([model, clause_head]), arguments.rate)
    stream = SentenceStream(tokenizer, arguments.seed * 100, arguments.batch, arguments.pseudo)
    dev, best, kept, began, running = read_dev(), (0.0, 0.0), average.model.state_dict(), time.monotonic(), 0.0
    trained: dict[str, float] = {}
    for step in range(arguments.steps):
        reached = max(step, int(arguments.steps * (time.monotonic() - began) / arguments.seconds))
        if reached >= arguments.steps:
            break
        items = stream.next()
        model.train()
        loss = training_loss(model, clause_head, items)
        take_step(model, optimiser, loss, arguments.rate * rate_at(reached, arguments.steps))
        average.update(model)
        running += 0.01 * (loss.item() - running) if step else loss.item()
        if (step + 1) % arguments.every == 0:
            accuracy, dev_loss, _ = score(average.model, tokenizer, dev)
            seconds = time.monotonic() - began
            trained = {
                "seed": arguments.seed, "seconds": round(earlier["seconds"] + seconds, 1),
                "sentences": earlier["sentences"] + stream.drawn, "stages": earlier["stages"] + 1,
                "parameters": count_parameters(model),
            }  # fmt: skip
            latest = {"weights": model.state_dict(), "vocabulary": vocabulary, "trained": trained}
            torch.save(latest, arguments.checkpoint.with_suffix(".latest.pt"))  # to go on from with --start
            print(f"{step + 1} {seconds:.0f}s loss {running:.4f} dev {accuracy:.4f} {dev_loss:.4f}", flush=True)
            if reached * 2 > arguments.steps and (accuracy, -dev_loss) > best:
                best = accuracy, -dev_loss
                kept = {name: value.clone() for name, value in average.model.state_dict().items()}
    average.model.load_state_dict(kept)
    return average.model, trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument(
        "--seconds", type=float, default=3600, help="end the learning-rate curve by then, steps left or not"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--pseudo", type=float, default=0.07, help="share of the teacher's pseudo-sentences")
    parser.add_argument("--every", type=int, default=250, help="steps between looks at the dev set")
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from, perhaps of an older phrase bank")
    parser.add_argument("--checkpoint", type=Path, default=Path("sentiment.pt"))
    arguments = parser.parse_args()
    vocabulary = build_vocabulary(VOCABULARY, load_bank().texts)
    tokenizer = build_tokenizer(vocabulary)
    model, trained = train(arguments, vocabulary)
    round_to_fp16(model)
    accuracy, loss, wrong = score(model, tokenizer, read_dev())
    print(f"best: dev {accuracy:.4f} log loss {loss:.4f}; wrong:", *wrong, sep="\n  ")
    torch.save({"weights": model.state_dict(), "trained": trained, "vocabulary": vocabulary}, arguments.checkpoint)


if __name__ == "__main__":
    main()
