"""Trains tiny-lm, a character-level GPT-2 of about a million parameters, on generated Chinese texts.

    nice -n 10 python -m examples.shipped_models.train_tiny_lm --seed 1

One thread is enough. Each document is seen once; the weights are the moving average of the last steps, put onto the int8
grid (see `lm_rounding`) and rounded to what fp16 holds, so that storing them so loses nothing. Writes a Hugging Face folder,
which is what the importer reads.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from examples.shipped_models.encoder import round_to_fp16
from examples.shipped_models.lm_corpus import characters, documents
from examples.shipped_models.lm_folder import SPECIAL, Shape, write_folder
from examples.shipped_models.lm_rounding import OnGrid, put_on_grid
from examples.shipped_models.training_loop import WeightAverage, half_precision, make_optimiser, rate_at, take_step

PAD, UNK, BOS, EOS = range(len(SPECIAL))
IGNORED = -100
TOKENS_A_STEP = 3072
HELD_BACK_SEED = 987_654_321


class Reader:
    """Turns documents into rows of ids and rows into batches of similar length."""

    def __init__(self, alphabet: list[str]) -> None:
        self.ids = {character: place for place, character in enumerate(alphabet, len(SPECIAL))}

    def row(self, document: str) -> list[int]:
        return [BOS, *(self.ids.get(character, UNK) for character in document), EOS]

    def batches(self, seed: int, block: int = 6000) -> Iterator[Tensor]:
        """Padded batches of about `TOKENS_A_STEP` tokens without end."""
        stream, source = random.Random(seed), documents(seed)
        while True:
            rows = sorted((self.row(document) for document in islice(source, block)), key=len)
            cuts, width = [0], 0
            for place, row in enumerate(rows):
                width = max(width, len(row))
                if (place + 1 - cuts[-1]) * width > TOKENS_A_STEP:
                    cuts.append(place)
                    width = len(row)
            groups = [rows[start:end] for start, end in zip(cuts, [*cuts[1:], len(rows)], strict=True)]
            stream.shuffle(groups)
            yield from map(stack, groups)


def stack(rows: list[list[int]]) -> Tensor:
    """Rows padded to the longest."""
    result = torch.full((len(rows), max(map(len, rows))), PAD)
    for place, row in enumerate(rows):
        result[place, : len(row)] = torch.tensor(row)
    return result


def loss_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the next character; padding and unknown characters are no targets.

    Padding is on the right and attention is causal, so no mask is needed.
    """
    targets = ids[:, 1:].masked_fill((ids[:, 1:] == PAD) | (ids[:, 1:] == UNK), IGNORED)
    with half_precision():
        logits = model(ids[:, :-1], attention_mask=torch.ones_like(ids[:, :-1]), use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


@torch.no_grad()
def held_back_loss(model: nn.Module, reader: Reader, count: int = 40) -> float:
    """Loss in nats a character on documents of another seed."""
    model.eval()
    losses = [loss_of(model, ids).item() for ids in islice(reader.batches(HELD_BACK_SEED, block=2000), count)]
    return sum(losses) / len(losses)


def build_model(shape: Shape) -> GPT2LMHeadModel:
    """An untrained decoder of this shape. Eager attention is half as fast again as fused on these short rows."""
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_positions=shape.context,
        n_embd=shape.hidden,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_inner=shape.inner,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        attn_implementation="eager",
    )
    return GPT2LMHeadModel(config)


def train(arguments: argparse.Namespace, shape: Shape, reader: Reader) -> tuple[GPT2LMHeadModel, dict[str, float]]:
    """The weight average, and how it was trained."""
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    model = build_model(shape)
    average = WeightAverage(model, decay=0.998)
    optimiser = make_optimiser(model, arguments.rate)
    began, running, seen = time.monotonic(), 0.0, 0
    for step, ids in enumerate(islice(reader.batches(arguments.seed), arguments.steps)):
        model.train()
        is_rounded = step >= arguments.steps * (1 - arguments.rounded)
        loss = loss_of(OnGrid(model) if is_rounded else model, ids)
        take_step(model, optimiser, loss, arguments.rate * rate_at(step, arguments.steps))
        average.update(model)
        seen += int((ids > PAD).sum())
        running += 0.02 * (loss.item() - running) if step else loss.item()
        if (step + 1) % arguments.every == 0:
            held = held_back_loss(average.model, reader)
            cpu, wall = time.process_time(), time.monotonic() - began
            print(f"{step + 1} cpu {cpu:.0f}s wall {wall:.0f}s loss {running:.4f} held back {held:.4f}", flush=True)
    return average.model, {
        "seed": arguments.seed, "steps": arguments.steps, "characters": seen, "seconds": round(time.process_time()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument(
        "--rounded", type=float, default=0.25, help="share of the steps, the last ones, on the int8 grid"
    )
    parser.add_argument("--every", type=int, default=1000, help="steps between looks at held-back texts")
    parser.add_argument("--folder", type=Path, default=None, help="where to write; the source folder by default")
    arguments = parser.parse_args()
    shape = Shape()
    alphabet = characters(shape.vocabulary - len(SPECIAL), arguments.seed)
    reader = Reader(alphabet)
    model, trained = train(arguments, shape, reader)
    put_on_grid(model)
    round_to_fp16(model)
    loss, rounded = held_back_loss(model, reader), held_back_loss(OnGrid(model), reader)
    print(f"held back {loss:.4f}, with activations rounded too {rounded:.4f}")
    trained |= {"held_back_loss": round(loss, 4), "perplexity": round(math.exp(loss), 3)}
    write_folder(model, alphabet, trained, arguments.folder)
    print(trained)


if __name__ == "__main__":
    main()
