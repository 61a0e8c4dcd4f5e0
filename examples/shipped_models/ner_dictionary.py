"""Words of jieba's part-of-speech dictionary that are clean enough to be names or fillers.

The dictionary is noisy (idioms tagged as persons, nouns tagged as places), so names are kept by form: a Chinese name
begins with a common surname, a transliterated one uses transcription characters only, a place ends in a place suffix.
Fillers that contain a well-known place or organisation are dropped: they would be unlabelled entities.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache

PLACE_SUFFIXES = "省市县区州旗镇乡村山河江湖岛港湾"
POORLY_TAGGED = set("鬼贼怪魔妖神仙佛婆爷")


@cache
def tagged_words() -> dict[str, dict[str, int]]:
    """Tag -> word -> frequency."""
    import jieba

    words: dict[str, dict[str, int]] = defaultdict(dict)
    with jieba.get_dict_file() as lines:
        for raw in lines:
            word, times, tag = raw.decode("utf-8").strip().split(" ")
            words[tag][word] = int(times)
    return words


@cache
def frequent_characters(count: int) -> list[str]:
    """The `count` most frequent Chinese characters of the dictionary."""
    seen: Counter[str] = Counter()
    for words in tagged_words().values():
        for word, times in words.items():
            for character in word:
                if "一" <= character <= "鿿":
                    seen[character] += times
    return [character for character, _ in seen.most_common(count)]


@dataclass(frozen=True)
class Weighted:
    """Words with sampling weights, drawn in blocks because one draw of `choices` is slow."""

    words: list[str]
    weights: list[float]

    def sample(self, rng: random.Random, count: int) -> list[str]:
        """`count` words, frequent ones more often."""
        return rng.choices(self.words, self.weights, k=count)


class Dictionary:
    """Name lists and filler words out of jieba's dictionary."""

    def __init__(self, surnames: set[str], translit: set[str], entities: set[str]) -> None:
        words = tagged_words()
        common = set(frequent_characters(3200))
        self.chinese_names = [
            word
            for word, times in {**words["nr"], **words["nrfg"]}.items()
            if len(word) == 3
            and word[0] in surnames
            and set(word) <= common
            and 3 <= times < 500
            and not POORLY_TAGGED & set(word)
            and word[-1] not in PLACE_SUFFIXES
        ]
        elsewhere = entities | set(words["ns"])  # places such as 布拉格 are tagged as persons too
        self.foreign_names = [w for w in words["nrt"] if 2 <= len(w) <= 6 and set(w) <= translit and w not in elsewhere]
        self.places = [
            w
            for w, f in words["ns"].items()
            if 2 <= len(w) <= 4 and w[-1] in PLACE_SUFFIXES and f >= 3 and set(w) <= common
        ]
        self._entities = entities
        self.fillers = {
            "n": self._weighted(["n", "s", "f"], 8),
            "v": self._weighted(["v", "vn"], 12),
            "a": self._weighted(["a", "z", "b"], 8),
            "d": self._weighted(["d"], 100),
            "i": self._weighted(["i", "l"], 3),
        }

    def _weighted(self, tags: list[str], least: int) -> Weighted:
        words = {
            word: times
            for tag in tags
            for word, times in tagged_words()[tag].items()
            if times >= least and len(word) >= 2 and not self._holds_entity(word)
        }
        return Weighted(list(words), [times**0.42 for times in words.values()])

    def _holds_entity(self, word: str) -> bool:
        spans = {word[i:j] for i in range(len(word)) for j in range(i + 2, len(word) + 1)}
        return bool(spans & self._entities)
