"""Tensors from generated sentences, with characters hidden and entities respelt so that unseen ones are learnt.

Ids follow the run time: every code point alone, lower-cased, `[UNK]` where the vocabulary has no such token, with
[CLS] before and [SEP] after.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.shipped_models.crf import encode_spans
from examples.shipped_models.ner_choices import WORDLISTS
from examples.shipped_models.ner_dictionary import frequent_characters
from examples.shipped_models.ner_grammar import Grammar, Sentence
from examples.shipped_models.ner_segments import word_tags
from examples.shipped_models.tokenizer import (
    CHINESE_PUNCTUATION,
    CLS,
    EMOJI,
    LETTERS_IN_WORDS,
    PAD,
    SEP,
    SPECIAL,
    UNK,
)


@dataclass(frozen=True)
class Batch:
    """Model inputs, and the tags and word tags (-100: unknown) of the characters between [CLS] and [SEP]."""

    input_ids: Tensor
    attention_mask: Tensor
    tags: Tensor
    words: Tensor
    character_mask: Tensor


def ner_vocabulary(size: int) -> list[str]:
    """Single characters only: those of the word lists, then the most frequent ones.

    Unlike the vocabulary of the other models it has no `##` tokens, which a tagger that reads every character alone
    never meets; the rare characters of names and places (婷, 鑫, 郴, 洱) have those rows.
    """
    tokens = dict.fromkeys(SPECIAL)
    tokens.update(dict.fromkeys(string.punctuation + CHINESE_PUNCTUATION + string.ascii_lowercase + string.digits))
    tokens.update(dict.fromkeys(LETTERS_IN_WORDS + EMOJI))
    for path in sorted(WORDLISTS.glob("ner_*.txt")):
        tokens.update(dict.fromkeys(c for c in path.read_text(encoding="utf-8") if "一" <= c <= "鿿"))
    if len(tokens) > size:
        raise ValueError(f"{len(tokens)} characters are in use, {size} allowed")
    for character in frequent_characters(size):
        if len(tokens) == size:
            break
        tokens.setdefault(character)
    return list(tokens)


class Encoder:
    """Characters to ids."""

    def __init__(self, vocabulary: list[str]) -> None:
        self.ids = {token: place for place, token in enumerate(vocabulary)}

    def encode(self, text: str) -> list[int]:
        """One id for each code point, without [CLS] and [SEP]."""
        return [self.ids.get(character.lower(), UNK) for character in text]


def hide(ids: list[int], rng: random.Random) -> list[int]:
    """Some sentences lose characters to [UNK], so that an unknown character does not end an entity."""
    if rng.random() < 0.65:
        return ids
    rate = rng.choice((0.03, 0.06, 0.12))
    return [UNK if rng.random() < rate else token for token in ids]


def collate(sentences: list[Sentence], encoder: Encoder, rng: random.Random | None = None) -> Batch:
    """One padded batch; with `rng` some characters are hidden."""
    rows = [encoder.encode(sentence.text) for sentence in sentences]
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest + 2), PAD, dtype=torch.int64)
    tags = torch.zeros((len(rows), longest), dtype=torch.int64)
    words = torch.full((len(rows), longest), -100, dtype=torch.int64)
    lengths = torch.tensor([len(row) for row in rows])
    for place, (row, sentence) in enumerate(zip(rows, sentences, strict=True)):
        visible = hide(row, rng) if rng else row
        ids[place, : len(row) + 2] = torch.tensor([CLS, *visible, SEP])
        tags[place, : len(row)] = torch.tensor(encode_spans(len(row), sentence.entities))
        if sentence.pieces:
            words[place, : len(row)] = torch.tensor(word_tags(sentence.pieces))
    places = torch.arange(longest + 2)
    mask = (places[None, :] < (lengths + 2)[:, None]).to(torch.int64)
    return Batch(ids, mask, tags, words, places[None, :longest] < lengths[:, None])


def batches(grammar: Grammar, encoder: Encoder, *, size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of sentences of similar length."""
    rng = random.Random(seed)
    while True:
        pool = sorted((grammar.sentence() for _ in range(size * 24)), key=lambda sentence: len(sentence.text))
        cut = [pool[start : start + size] for start in range(0, len(pool), size)]
        rng.shuffle(cut)
        for sentences in cut:
            yield collate(sentences, encoder, rng)
