"""A weak teacher for words that the phrase bank lacks: the word counts of SnowNLP's naive Bayes sentiment classifier.

Only its counts are read, never its review texts. It gives polar words (to stand in for a phrase) and pseudo-sentences,
bags of words drawn from its counts with a tempered soft label.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import accumulate

import jieba
import jieba.posseg

OPEN_CLASSES = ("a", "z", "i", "l", "v", "d", "n")
POLAR_CLASSES = ("a", "z", "i", "l")
LARGEST_LOGIT = 4.0


def _is_chinese(word: str) -> bool:
    return all("\u4e00" <= character <= "\u9fff" for character in word)


@dataclass(frozen=True)
class Word:
    """A word with the log-odds that the teacher gives it, and how often it saw it."""

    text: str
    logit: float
    times: float
    tag: str


def read_words() -> list[Word]:
    """The teacher's Chinese words, most frequent first."""
    from snownlp import sentiment

    counts = {label: sentiment.classifier.classifier.d[label] for label in ("pos", "neg")}
    totals = {label: counts[label].getsum() for label in counts}
    jieba.setLogLevel(60)
    tags = jieba.posseg.dt.word_tag_tab
    jieba.posseg.initialize()
    words = []
    for text in set(counts["pos"].samples()) | set(counts["neg"].samples()):
        good, bad = counts["pos"].get(text)[1], counts["neg"].get(text)[1]
        if not _is_chinese(text) or good + bad < 5:
            continue
        logit = math.log((good + 1) / totals["pos"]) - math.log((bad + 1) / totals["neg"])
        words.append(Word(text, logit, good + bad, tags.get(text, "x")))
    return sorted(words, key=lambda word: -word.times)


class Teacher:
    """Draws pseudo-sentences with soft labels, and polar words."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.words = [word for word in read_words() if word.tag[:1] in OPEN_CLASSES]
        self.weights = [list(accumulate(self._drawn(word, side) for word in self.words)) for side in (-1, 1)]
        polar = [word for word in self.words if word.tag[:1] in POLAR_CLASSES and len(word.text) > 1]
        self.polar = (
            [word.text for word in polar if word.logit < -1.6 and word.times >= 8],
            [word.text for word in polar if word.logit > 1.6 and word.times >= 8],
        )

    @staticmethod
    def _drawn(word: Word, side: int) -> float:
        return word.times**0.6 * math.exp(0.5 * side * max(-3.0, min(3.0, word.logit)))

    def pseudo_sentence(self) -> tuple[str, float]:
        """A bag of words and the probability that it is good."""
        weights = self.weights[self.random.randrange(2)]
        drawn = self.random.choices(self.words, cum_weights=weights, k=self.random.randint(2, 9))
        logit = 0.7 * sum(max(-3.0, min(3.0, word.logit)) for word in drawn)
        text = self.random.choice(("", "", "，")).join(word.text for word in drawn)
        return text, 1 / (1 + math.exp(-max(-LARGEST_LOGIT, min(LARGEST_LOGIT, logit))))

    def polar_word(self, good: int) -> str:
        """A word that the teacher finds clearly good or bad."""
        return self.random.choice(self.polar[good])


def frequent_words(count: int = 12000) -> list[str]:
    """Frequent nouns, verbs and adjectives of jieba's dictionary, two to four characters long."""
    found = []
    with jieba.get_dict_file() as lines:
        for raw in lines:
            word, times, tag = raw.decode("utf-8").split()
            if 2 <= len(word) <= 4 and tag[0] in "nva" and tag not in ("nr", "nrt") and _is_chinese(word):
                found.append((-int(times), word))
    return [word for _, word in sorted(found)[:count]]
