"""Writes tiny-lm as a Hugging Face folder: what the importer reads, and `transformers` too.

The tokenizer takes one character at a time; what is not in its alphabet is [UNK]. Weights are stored in fp16.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from examples.shipped_models.encoder import count_parameters

FOLDER = Path(__file__).parent / "sources" / "tiny-lm"
SPECIAL = ("[PAD]", "[UNK]", "[BOS]", "[EOS]")
NOTES = """**What it is.** A character-level GPT-2 ({layers} layers, {hidden} wide, {heads} heads, {parameters:,} parameters,
{vocabulary} tokens, {context} tokens of context) that goes on with a short Chinese text, and answers small questions
written as `问：…？答：`. It shows text generation end to end on any device; it is far too small to know things.

**Data.** {characters:,} characters of generated text: templates about weather, shopping, food, travel, daily life,
stories, notices, devices and news (`examples/shipped_models/wordlists/lm_*.txt`), questions with answers, and the reviews
and news of the other models' grammars. No downloaded weights or data sets, no held-out files.

**Retrain.** `python -m examples.shipped_models.train_tiny_lm --seed {seed}` ({seconds} s of one CPU thread).

**Scores.** {held_back_loss:.3f} nats a character (perplexity {perplexity:.2f}) on generated texts of another seed. That
says how well it learned its own grammar, not how well it writes Chinese.

**Limits.** It writes what its templates say, one or a few sentences, and invents freely; sums are
unreliable. A character outside its {vocabulary} tokens is unknown to it.
"""


@dataclass(frozen=True)
class Shape:
    """The decoder's sizes; small enough that both variants and the tokenizer stay under 4 MB together."""

    vocabulary: int = 2400
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    inner: int = 448
    context: int = 256


def build_tokenizer(alphabet: list[str]) -> Tokenizer:
    """One token per code point; [BOS] goes before the text."""
    tokens = {token: place for place, token in enumerate((*SPECIAL, *alphabet))}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 2)])
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def write_folder(
    model: GPT2LMHeadModel, alphabet: list[str], trained: dict[str, float], folder: Path | None = None
) -> Path:
    """The whole folder, of exactly the files the importer needs."""
    folder = folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    # A copy in fp16: the weights are fp16-representable already, so nothing is lost.
    model.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    model.to(torch.float32)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(alphabet), pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]",
        eos_token="[EOS]", clean_up_tokenization_spaces=False, model_max_length=model.config.n_positions,
        padding_side="left",
    )  # fmt: skip
    fast.save_pretrained(folder)
    # As one line: indented, the alphabet would be half as large again.
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(
        json.dumps(json.loads(tokenizer.read_text(encoding="utf-8")), ensure_ascii=False, separators=(",", ":")) + "\n",
        encoding="utf-8",
    )
    shape = Shape()
    notes = NOTES.format(parameters=count_parameters(model), **vars(shape), **trained)
    (folder / "notes.md").write_text(notes, encoding="utf-8")
    return folder
