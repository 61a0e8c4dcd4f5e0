"""Endless (anchor, near, far) texts for contrastive training, each with the key of its meaning.

Five sources: an aspect of a domain judged twice in other words; an event clause reworded; twins that went well and went
badly; one intent asked in two ways; and random dictionary words said twice with other function words, which makes any
word matter, also those no list knows. `far` is close in wording and differs in meaning: the other polarity, another
aspect, an opposite, half of the words replaced. Two texts in a batch that share a key are never set against each other.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from examples.shipped_models.phrase_bank import WORDLISTS, load_bank

FRAMES = (
    "{0}{1}", "{0}的{1}", "{0}和{1}", "{0}在{1}", "{0}{1}{2}", "{0}的{1}{2}", "{0}与{1}的{2}", "关于{0}的{1}", "{0}{1}{2}{3}",
    "{0}正在{1}{2}", "{0}已经{1}了{2}", "我们{0}{1}{2}", "{0}，{1}{2}", "{0}是{1}的{2}", "把{0}{1}到{2}", "{0}对{1}{2}",
)  # fmt: skip
FRONTS = "请问 那个 其实 我想问 听说 就是 说真的 感觉 麻烦 今天 最近 这次 我觉得 据说 昨天 好像 目前".split()  # noqa: SIM905
BACKS = "了 呢 吧 啊 吗 的 呀 哦 。 ！ ？ … ~ 谢谢".split()  # noqa: SIM905


class Triple(NamedTuple):
    """Two texts of one meaning, one of another."""

    key: str
    anchor: str
    near: str
    far: str


class PairMaker:
    """Draws triples from one random stream."""

    def __init__(self, seed: int, words: list[str]) -> None:
        self.random = random.Random(seed)
        self.words = words
        self.bank = load_bank()
        self.groups = [line.split() for line in _lines("synonyms.txt")]
        self.intents = [line.split("|") for line in _lines("intents*.txt")]
        self.group_of = {word: group for group in self.groups for word in group if len(word) > 1}
        self.antonyms = [tuple(line.split()) for line in _lines("antonyms.txt")]

    def triple(self) -> Triple:
        draw = self.random.random()
        if draw < 0.30:
            return self.aspect()
        if draw < 0.42:
            return self.event()
        if draw < 0.47:
            return self.twins()
        if draw < 0.74:
            return self.intent()
        return self.dictionary()

    def aspect(self) -> Triple:
        choice = self.random.choice
        domain = choice(self.bank.domains)
        place, good = self.random.randrange(len(domain.aspects)), self.random.randrange(2)
        aspect = domain.aspects[place]

        def say(subject: str, noun: str, phrase: str, side: int) -> str:
            degree = choice(self.bank.polar("degree")[side]) if self.random.random() < 0.4 else ""
            shape = self.random.random()
            if shape < 0.12:
                return f"{phrase}的{noun}" if len(phrase) < 5 else noun + phrase
            if shape < 0.3:
                return noun + degree + phrase
            if shape < 0.38:
                return f"{noun}{degree}{phrase}，{subject}"
            return subject + choice(["的", "", "，"]) + noun + degree + phrase

        subject, noun, phrase = choice(domain.subjects), choice(aspect.nouns), choice(aspect.phrases[good])
        same = self.random.random()
        near_subject = subject if same < 0.6 else choice(domain.subjects)
        near_noun = noun if same < 0.35 else choice(aspect.nouns)
        near_phrase = phrase if 0.4 < same < 0.6 else choice(aspect.phrases[good])
        if self.random.random() < 0.55 or len(domain.aspects) == 1:
            far = say(subject, noun, choice(aspect.phrases[1 - good]), 1 - good)
        else:
            other = choice([a for p, a in enumerate(domain.aspects) if p != place])
            far = say(subject, choice(other.nouns), choice(other.phrases[good]), good)
        key = f"{domain.name}/{place}/{good}"
        return Triple(
            key,
            self.dress(say(subject, noun, phrase, good)),
            self.dress(say(near_subject, near_noun, near_phrase, good)),
            far,
        )

    def event(self) -> Triple:
        good = self.random.randrange(2)
        clause, other = self.random.sample(self.bank.events[good], 2)
        if self.random.random() < 0.3:
            other = self.random.choice(self.bank.events[1 - good])
        if self.random.random() < 0.3:
            other = self.opposite(clause) or other
        return Triple(clause, self.dress(clause), self.reword(clause), self.dress(other))

    def twins(self) -> Triple:
        """Nearly the same words, gone well and gone badly."""
        place, good = self.random.randrange(len(self.bank.pairs[0])), self.random.randrange(2)
        text, other = self.bank.pairs[good][place], self.bank.pairs[1 - good][place]
        return Triple(text, self.dress(text), self.reword(text), other)

    def opposite(self, text: str) -> str | None:
        """The text with one word turned into its opposite, where it has such a word."""
        found = [pair for pair in self.antonyms if pair[0] in text or pair[1] in text]
        if not found:
            return None
        left, right = self.random.choice(found)
        return text.replace(left, right, 1) if left in text else text.replace(right, left, 1)

    def intent(self) -> Triple:
        intent = self.random.choice(self.intents)
        anchor, near = self.random.sample(intent, 2)
        others = self.random.sample(self.intents, 12)
        best = max((o for o in others if o is not intent), key=lambda o: len(set(anchor) & set("".join(o))))
        far = max(best, key=lambda text: len(set(anchor) & set(text)))
        if self.random.random() < 0.35:
            far = self.opposite(self.random.choice((anchor, near))) or far
        return Triple(intent[0], self.dress(anchor), self.dress(near), far)

    def dictionary(self) -> Triple:
        words = [self.random.choice(self.words) for _ in range(4)]
        frame = self.random.choice(FRAMES)
        used = sum(f"{{{place}}}" in frame for place in range(4))
        other = self.random.choice([f for f in FRAMES if sum(f"{{{place}}}" in f for place in range(4)) == used])
        order = list(words)
        if self.random.random() < 0.3:
            head = order[:used]
            self.random.shuffle(head)
            order[:used] = head
        changed = list(words)
        for place in self.random.sample(range(used), max(1, used // 2)):
            changed[place] = self.random.choice(self.words)
        return Triple(
            "".join(words), self.dress(frame.format(*words)), self.dress(other.format(*order)), frame.format(*changed)
        )

    def reword(self, text: str) -> str:
        """The text with synonyms, a character dropped, or its halves exchanged."""
        if "，" in text and self.random.random() < 0.4:
            head, _, tail = text.partition("，")
            text = tail + "，" + head
        if self.random.random() < 0.5 and len(text) > 6:
            place = self.random.randrange(len(text))
            text = text[:place] + text[place + self.random.choice((1, 1, 2)) :]
        return self.dress(text)

    def dress(self, text: str) -> str:
        """Fillers around a text and synonyms in it, neither of which changes its meaning."""
        for word, group in self.group_of.items():
            if word in text and self.random.random() < 0.5:
                text = text.replace(word, self.random.choice(group), 1)
                break
        if self.random.random() < 0.2:
            text = self.random.choice(FRONTS) + self.random.choice(("", "，")) + text
        if self.random.random() < 0.3:
            text += self.random.choice(BACKS)
        return text


def _lines(pattern: str) -> list[str]:
    found = sorted(WORDLISTS.glob(pattern))
    return [line.strip() for path in found for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
