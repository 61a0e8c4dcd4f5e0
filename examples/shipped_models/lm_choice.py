"""Choices that lean: what stands first in a list is said most often, as some words are in life.

A list drawn from evenly teaches a model that many words are equally likely, and then the last digit of a score decides which of
them it writes. With a clear first choice its texts are the same in any arithmetic, int8 included.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Word = TypeVar("Word")
STEEP, GENTLE = 2.0, 1.3
LONG = 100
"""Lists longer than this lean gently: their first entries would be all there is otherwise."""


def lean(stream: random.Random, words: Sequence[Word]) -> Word:
    """One of `words`."""
    count = len(words)
    return words[int(count * stream.random() ** (STEEP if count <= LONG else GENTLE))]


def lean_number(stream: random.Random, low: int, high: int) -> int:
    """A whole number of low..high, rather a small one."""
    return low + int((high - low + 1) * stream.random() ** STEEP)


def lean_some(stream: random.Random, words: Sequence[Word], count: int) -> list[Word]:
    """`count` different ones of `words`."""
    left = list(words)
    return [left.pop(left.index(lean(stream, left))) for _ in range(min(count, len(left)))]
