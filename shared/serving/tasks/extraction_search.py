"""A search through a schema: what is asked of a text next, and what the answers make of it. Knows no arrays of a program.

A question is a hint: what led to it, and the type it asks for, as in `person: Ann, school: `. What answers it may lead to
further questions, level by level; in the end there is one relation per path to a leaf of the schema.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from shared.serving.answer import Array, Entity, Relation, Relations
from shared.serving.tasks.extraction_schema import Schema


class Hop(NamedTuple):
    """Something found: code points `start` to `end` are of `type`, with the probability `score`."""

    type: str
    start: int
    end: int
    score: float


class Question:
    """Asks, after `path`, for what is of `type`; `found` pairs each answer with the questions it led to."""

    def __init__(self, path: tuple[Hop, ...], type: str, below: Schema | None, hint: str) -> None:
        self.path = path
        self.type = type
        self.below = below
        self.hint = hint
        self.found: list[tuple[Hop, list[Question]]] = []


class Search:
    """One text's search. `open` are the questions of this level; at most `most` are asked in all."""

    def __init__(self, text: str, schema: Schema, *, most: int) -> None:
        self.text = text
        self.curtailed = False
        self._left = most
        self._first = self.open = self._questions((), schema)

    def answer(self, found: Sequence[Sequence[Hop]]) -> None:
        """Take what answers each open question, in order, and open those of the next level."""
        following: list[Question] = []
        for question, hops in zip(self.open, found, strict=True):
            for hop in hops:
                further = self._questions((*question.path, hop), question.below) if question.below else []
                question.found.append((hop, further))
                following.extend(further)
        self.open = following

    def relations(self, *, truncated: bool) -> Relations:
        """Every path to a leaf, in the order of the schema and, for one type, of the text."""
        found = tuple(self._relation(path) for path in _paths(self._first))
        return Relations(relations=found, truncated=truncated or self.curtailed)

    def _questions(self, path: tuple[Hop, ...], schema: Schema) -> list[Question]:
        led = "".join(f"{hop.type}: {self.text[hop.start : hop.end]}, " for hop in path)
        questions = [Question(path, name, below, f"{led}{name}: ") for name, below in schema.items()]
        self.curtailed = self.curtailed or len(questions) > self._left
        questions = questions[: self._left]
        self._left -= len(questions)
        return questions

    def _relation(self, path: tuple[Hop, ...]) -> Relation:
        *before, last = path
        subject = before[-1] if before else None
        return Relation(
            type=last.type,
            subject=self.text[subject.start : subject.end] if subject else None,
            object=self.text[last.start : last.end],
            score=math.prod(hop.score for hop in path),
            object_start=last.start,
            object_end=last.end,
            subject_type=subject.type if subject else None,
            subject_start=subject.start if subject else None,
            subject_end=subject.end if subject else None,
            within=tuple(
                Entity(
                    type=hop.type, start=hop.start, end=hop.end, text=self.text[hop.start : hop.end], score=hop.score
                )
                for hop in before[:-1]
            ),
        )


def hops(type: str, offsets: Sequence[tuple[int, int]], heads: Array, tails: Array, *, threshold: float) -> list[Hop]:
    """From each token whose head is above `threshold` to the nearest such tail, itself included; in order of the text.

    Args:
        type: what was asked for.
        offsets: the code points of each token; those of special tokens are empty.
        heads: logits of each token to begin it, float64 [tokens].
        tails: logits of each token to end it.
        threshold: a logit.

    """
    ends = np.flatnonzero(tails > threshold)
    found: dict[tuple[int, int], float] = {}
    for head in np.flatnonzero(heads > threshold).tolist():
        nearest = int(np.searchsorted(ends, head))
        if nearest == len(ends):
            break
        tail = int(ends[nearest])
        start, end = offsets[head][0], offsets[tail][1]
        if start < end:
            # The pipeline also gives spans that end at a special token, before they begin, and one span from two pieces twice.
            score = sigmoid(float(heads[head])) * sigmoid(float(tails[tail]))
            found[start, end] = max(score, found.get((start, end), 0.0))
    return [Hop(type, start, end, score) for (start, end), score in sorted(found.items())]


def sigmoid(logit: float) -> float:
    """The probability of a logit."""
    # The exponent of a large number overflows; that of its opposite is 0.
    small = math.exp(-abs(logit))
    return 1 / (1 + small) if logit >= 0 else small / (1 + small)


def _paths(questions: Sequence[Question]) -> Iterator[tuple[Hop, ...]]:
    for question in questions:
        for hop, further in question.found:
            if question.below is None:
                yield (*question.path, hop)
            else:
                yield from _paths(further)
