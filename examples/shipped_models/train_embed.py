"""Trains embed-zh contrastively on generated triples: in-batch InfoNCE with one hard negative each.

    python -m examples.shipped_models.train_embed --steps 4000 --seed 1

One thread is enough. The checkpoint is the weight average with the best triplet accuracy on dev/embed.jsonl.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from examples.shipped_models.embed_pairs import PairMaker, Triple
from examples.shipped_models.encoder import CharEncoder, EncoderShape, count_parameters, round_to_fp16
from examples.shipped_models.phrase_bank import WORDLISTS, load_bank
from examples.shipped_models.polarity_teacher import frequent_words
from examples.shipped_models.tokenizer import build_tokenizer, build_vocabulary
from examples.shipped_models.training_loop import (
    WeightAverage,
    encode,
    half_precision,
    make_optimiser,
    pad,
    rate_at,
    spoil,
    take_step,
)

VOCABULARY = 4540
MAX_LENGTH = 128
TEMPERATURE = 0.05
HERE = Path(__file__).parent


class EmbedModel(nn.Module):
    """Encoder, state of [CLS], unit length."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.encoder = CharEncoder(shape)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        first = self.encoder(input_ids, attention_mask, token_type_ids)[:, 0]
        return first / first.pow(2).sum(dim=-1, keepdim=True).clamp(min=1e-12).sqrt()


def embed_shape(vocabulary: int) -> EncoderShape:
    """Small enough that both variants together stay under 2.9 MB."""
    return EncoderShape(vocabulary, hidden=128, layers=2, heads=4, ffn=384, max_length=MAX_LENGTH, dropout=0.1)


def embed_vocabulary() -> list[str]:
    """The shared vocabulary with the characters of the intents too."""
    extra = [
        (WORDLISTS / name).read_text(encoding="utf-8")
        for name in ("intents.txt", "intents_more.txt", "synonyms.txt", "antonyms.txt")
    ]
    return build_vocabulary(VOCABULARY, [*load_bank().texts, *extra])


def read_dev() -> list[dict[str, str]]:
    """The dev triplets: anchor, near, far."""
    return [json.loads(line) for line in (HERE / "dev" / "embed.jsonl").read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def embed(model: nn.Module, tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """Unit vectors of the texts."""
    model.eval()
    return model(*pad(encode(tokenizer, texts, MAX_LENGTH)).inputs())


def score(model: nn.Module, tokenizer: Tokenizer) -> dict[str, float]:
    """How often near is nearer than far, by how much, and how often it is the nearest of all dev texts."""
    dev = read_dev()
    anchor, near, far = (embed(model, tokenizer, [item[part] for item in dev]) for part in ("anchor", "near", "far"))
    close, away = (anchor * near).sum(-1), (anchor * far).sum(-1)
    ranks = (anchor @ torch.cat([near, far]).T).argmax(-1)
    return {
        "triplet_accuracy": round((close > away).float().mean().item(), 4),
        "retrieval_first": round((ranks == torch.arange(len(dev))).float().mean().item(), 4),
        "near_cosine": round(close.mean().item(), 4),
        "far_cosine": round(away.mean().item(), 4),
        "triplets": len(dev),
    }


def contrast(triples: list[Triple], vectors: Tensor) -> Tensor:
    """InfoNCE both ways; texts that share a key are not set against each other."""
    count = len(triples)
    anchor, near, far = vectors[:count], vectors[count : 2 * count], vectors[2 * count :]
    keys = {key: place for place, key in enumerate(dict.fromkeys(triple.key for triple in triples))}
    places = torch.tensor([keys[triple.key] for triple in triples])
    same = (places[:, None] == places[None, :]) & ~torch.eye(count, dtype=torch.bool)
    forward = (anchor @ near.T / TEMPERATURE).masked_fill(same, -1e4)
    against = anchor @ far.T / TEMPERATURE
    backward = (near @ anchor.T / TEMPERATURE).masked_fill(same, -1e4)
    wanted = torch.arange(count)
    both = nn.functional.cross_entropy(torch.cat([forward, against], dim=1), wanted)
    return 0.7 * both + 0.3 * nn.functional.cross_entropy(backward, wanted)


def train(arguments: argparse.Namespace, tokenizer: Tokenizer) -> tuple[EmbedModel, dict[str, float]]:
    """The best weight average, and how it was trained."""
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    model = EmbedModel(embed_shape(VOCABULARY))
    average = WeightAverage(model, decay=0.998)
    optimiser = make_optimiser(model, arguments.rate)
    maker, stream = PairMaker(arguments.seed * 100, frequent_words()), random.Random(arguments.seed)
    best, kept, began, running, step = (0.0, 0.0), average.model.state_dict(), time.monotonic(), 0.0, 0
    for step in range(arguments.steps):
        reached = max(step, int(arguments.steps * (time.monotonic() - began) / arguments.seconds))
        if reached >= arguments.steps:
            break
        triples = [maker.triple() for _ in range(arguments.batch)]
        texts = [t.anchor for t in triples] + [t.near for t in triples] + [t.far for t in triples]
        rows = [spoil(row, stream, VOCABULARY, rate=0.05) for row in encode(tokenizer, texts, MAX_LENGTH)]
        model.train()
        with half_precision():
            vectors = model(*pad(rows).inputs())
        loss = contrast(triples, vectors.float())
        take_step(model, optimiser, loss, arguments.rate * rate_at(reached, arguments.steps))
        average.update(model)
        running += 0.01 * (loss.item() - running) if step else loss.item()
        if (step + 1) % arguments.every == 0:
            scores = score(average.model, tokenizer)
            print(f"{step + 1} {time.monotonic() - began:.0f}s loss {running:.4f} {scores}", flush=True)
            value = scores["triplet_accuracy"], scores["retrieval_first"]
            if reached * 2 > arguments.steps and value >= best:
                best = value
                kept = {name: tensor.clone() for name, tensor in average.model.state_dict().items()}
    average.model.load_state_dict(kept)
    return average.model, {
        "seed": arguments.seed, "seconds": round(time.monotonic() - began, 1),
        "sentences": (step + 1) * arguments.batch * 3, "parameters": count_parameters(model),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument(
        "--seconds", type=float, default=3600, help="end the learning-rate curve by then, steps left or not"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--every", type=int, default=250, help="steps between looks at the dev set")
    parser.add_argument("--checkpoint", type=Path, default=Path("embed.pt"))
    arguments = parser.parse_args()
    vocabulary = embed_vocabulary()
    model, trained = train(arguments, build_tokenizer(vocabulary))
    round_to_fp16(model)
    print("best:", score(model, build_tokenizer(vocabulary)))
    torch.save({"weights": model.state_dict(), "trained": trained, "vocabulary": vocabulary}, arguments.checkpoint)


if __name__ == "__main__":
    main()
