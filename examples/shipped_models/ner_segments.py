"""Word boundaries and word classes of plain text, the tagger's second task while it trains.

Where a name ends is mostly a question of which word follows (`比亚迪与优步达成合作`), so the encoder is also taught to
segment: every character has a place in its word (begin, inside, end, single) and a coarse class. jieba's dictionary
says so for template text and filler words; the grammar says so for names. The second head is not exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

from examples.shipped_models.ner_dictionary import tagged_words

CLASSES = ("name", "n", "v", "a", "d", "t", "function", "x")
CLASS_OF_TAG = {
    "n": "n",
    "s": "n",
    "f": "n",
    "i": "n",
    "l": "n",
    "j": "n",
    "v": "v",
    "a": "a",
    "b": "a",
    "z": "a",
    "d": "d",
    "t": "t",
    "m": "t",
    "q": "t",
    "p": "function",
    "c": "function",
    "u": "function",
    "r": "function",
    "y": "function",
    "k": "function",
    "x": "x",
    "w": "x",
}
WORD_TAGS = 4 * len(CLASSES)


@cache
def _class_of_word() -> dict[str, int]:
    best: dict[str, tuple[int, str]] = {}
    for tag, words in tagged_words().items():
        for word, times in words.items():
            if times >= best.get(word, (0, ""))[0]:
                best[word] = times, tag
    return {word: _class_of_tag(tag) for word, (_, tag) in best.items()}


def _class_of_tag(tag: str) -> int:
    return CLASSES.index(CLASS_OF_TAG.get(tag[:1], "x"))


def _tags_of_word(length: int, kind: int) -> list[int]:
    if length == 1:
        return [4 * kind + 3]
    return [4 * kind, *[4 * kind + 1] * (length - 2), 4 * kind + 2]


@lru_cache(maxsize=400_000)
def plain_tags(text: str) -> tuple[int, ...]:
    """Word tags of text without names: one dictionary word, or as jieba cuts it."""
    import jieba

    known = _class_of_word()
    words = [text] if text in known else jieba.lcut(text, HMM=False)
    tags: list[int] = []
    for word in words:
        tags.extend(_tags_of_word(len(word), known.get(word, CLASSES.index("x"))))
    return tuple(tags)


def word_tags(pieces: Sequence[tuple[str, str]]) -> list[int]:
    """Word tags of a sentence's pieces; a name is one word."""
    tags: list[int] = []
    for text, kind in pieces:
        tags.extend(_tags_of_word(len(text), 0) if kind and text else plain_tags(text))
    return tags
