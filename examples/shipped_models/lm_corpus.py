"""What tiny-lm reads: short generated Chinese texts without end, and the characters they are made of.

A document is one text, or a few of one kind after each other, at most `LONGEST` characters. Equal seeds give equal
documents. Nothing is downloaded and no held-out file is read.
"""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from examples.shipped_models.lm_news import News
from examples.shipped_models.lm_questions import Questions
from examples.shipped_models.lm_reviews import Reviews
from examples.shipped_models.lm_scenes import Scenes

LONGEST = 250
KINDS = {"scene": 0.48, "question": 0.16, "chat": 0.08, "review": 0.14, "news": 0.14}
FRAMES = ((1, 0.5), (2, 0.2), (3, 0.12), (0, 0.18))
"""How many texts a document has, and how often; 0 means as many as fit."""
MARKS = "，。！？；：、“”‘’（）《》…—～· ￥％"


class Corpus:
    """Draws documents."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.scenes = Scenes(self.random)
        self.questions = Questions(self.random)
        self.reviews = Reviews(self.random)
        self.news = News(seed)

    def document(self) -> str:
        """One document."""
        kind = self.random.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "chat":
            return self.questions.chat()[:LONGEST]
        section = self.scenes.section()
        counts, shares = zip(*FRAMES, strict=True)
        count = self.random.choices(counts, shares)[0]
        room = LONGEST if count else self.random.randint(60, LONGEST)
        result = ""
        while True:
            text = self._text(kind, section)
            if len(result) + len(text) > room:
                return result or text[:LONGEST]
            result += text
            count -= 1
            if count == 0:
                return result

    def _text(self, kind: str, section: str) -> str:
        match kind:
            case "scene":
                return self.scenes.text(section)
            case "question":
                return self.questions.text()
            case "review":
                return self.reviews.text()
            case _:
                return self.news.text()


def documents(seed: int) -> Iterator[str]:
    """Documents without end."""
    corpus = Corpus(seed)
    while True:
        yield corpus.document()


def characters(size: int, seed: int, sample: int = 60_000) -> list[str]:
    """`size` characters: printable ASCII, punctuation, then the most frequent of a sample."""
    seen: Counter[str] = Counter()
    for document in islice(documents(seed), sample):
        seen.update(document)
    chosen = dict.fromkeys(string.digits + string.ascii_letters + string.punctuation + " \n" + MARKS)
    chosen.update(dict.fromkeys(character for character, _ in seen.most_common()))
    return list(chosen)[:size]
