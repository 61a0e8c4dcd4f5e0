"""Reviews that stay with one thing and one opinion, from the phrase bank of the sentiment model."""

from __future__ import annotations

import random

from examples.shipped_models.phrase_bank import load_bank

ENDS_GOOD = "下次还来。 推荐给大家。 非常满意。 值得推荐。 很喜欢。 会再来的。 好评！".split()  # noqa: SIM905
ENDS_BAD = "不会再来了。 很失望。 不推荐。 再也不买了。 差评。 大家别买。 后悔了。".split()  # noqa: SIM905
DEGREES = "很 非常 特别 真 挺 比较".split()  # noqa: SIM905


class Reviews:
    """Draws reviews from one random stream."""

    def __init__(self, stream: random.Random) -> None:
        self.random = stream
        self.bank = load_bank()

    def text(self) -> str:
        """One review."""
        good, draw = self.random.randrange(2), self.random.random()
        if draw < 0.55:
            return self.aspects(good)
        if draw < 0.9:
            return self.event(good)
        return self._closed(self.random.choice(self.bank.pairs[good]))

    def aspects(self, good: int) -> str:
        """Two or three things said of one subject."""
        domain = self.random.choice(self.bank.domains)
        named = [subject for subject in domain.subjects if subject.startswith("这")] or domain.subjects
        chosen = self.random.sample(domain.aspects, min(len(domain.aspects), self.random.randint(2, 3)))
        parts = []
        for aspect in chosen:
            phrase = self.random.choice(aspect.phrases[good])
            degree = self.random.choice(DEGREES) if len(phrase) == 2 and self.random.random() < 0.5 else ""
            parts.append(self.random.choice(aspect.nouns) + degree + phrase)
        end = self.random.choice((ENDS_BAD, ENDS_GOOD)[good]) if self.random.random() < 0.6 else ""
        first = self.random.choice(named) + ("的" if self.random.random() < 0.4 else "")
        return first + "，".join(parts) + ("，" + end if end else "。")

    def event(self, good: int) -> str:
        """What happened, as the bank tells it."""
        return self._closed(self.random.choice(self.bank.events[good]))

    def _closed(self, text: str) -> str:
        return text if text[-1] in "。！？…”" else text + self.random.choice("。。。！")
