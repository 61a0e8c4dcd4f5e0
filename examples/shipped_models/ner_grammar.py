"""Labelled Chinese sentences from templates, for training the NER model.

A template is text with entity slots `{PC}`, filler slots `{time}` and choices `(a|b|)`. A sentence is a list of pieces;
neighbouring pieces are merged as the annotation convention asks: place + place is one place, place + organisation is
one organisation. About one sentence in four has no entity at all. Equal seeds give equal sentences.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from examples.shipped_models.ner_choices import WORDLISTS, read_sections
from examples.shipped_models.ner_dictionary import Dictionary
from examples.shipped_models.ner_names import Names

KIND = {"P": "PER", "L": "LOC", "O": "ORG", "S": "PER", "N": "PER"}
OUTSIDE = ""
Piece = tuple[str, str]  # text, kind or OUTSIDE
Node = str | tuple[str, list["Node"]] | list[list["Node"]]
LABELLED_SHARES = (0.13, 0.24, 0.39, 0.55, 0.69)  # cumulative, in the order of the template files
PLAIN_SHARE = 0.87
AFTER_NAME = set("、）)》”：:·—/") | {""}
HALF_WIDTH = str.maketrans("，。！？：；（）", ",.!?:;()")
CLOSERS = ["。", "。", "。", "。", "！", "？", "……", "，", "", "", "", "", "；", "~", "啊", "吧", "了"]


@dataclass(frozen=True)
class Sentence:
    """A text and its entities as (kind, start, end) in code points."""

    text: str
    entities: tuple[tuple[str, int, int], ...]
    pieces: tuple[Piece, ...] = ()


class Grammar:
    """Generates sentences without end."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.words = read_sections("ner_words.txt")
        people, places, orgs = (read_sections(f"ner_{name}.txt") for name in ("people", "places", "orgs"))
        known = {
            w
            for s in ("provinces", "cities", "countries", "foreign", "mountains", "waters", "scenic", "regions")
            for w in places[s]
        }
        known |= {w for s in ("companies", "universities", "government", "teams", "banks", "media") for w in orgs[s]}
        known |= set(people["known"]) | set(people["foreign_known"])
        surnames = set(people["surnames_common"])
        self.dictionary = Dictionary(surnames, set(people["translit"]), known - set(self.words["ordinary"]))
        self.names = Names(self.rng, self.dictionary)
        names = ("news", "life", "prose", "story", "syntax")
        self.labelled = [_templates(f"ner_templates_{name}.txt") for name in names]
        self.plain = _templates("ner_templates_plain.txt")
        self._stock: dict[str, list[str]] = {}

    def sentence(self, longest: int = 94) -> Sentence:
        """One sentence of at most `longest` characters."""
        while True:
            pieces = self._body()
            if self.rng.random() < 0.25:
                pieces = [*pieces, (self.names.pick(["，", "。", "，", "；", " ", "！"]), OUTSIDE), *self._body()]
            if self.rng.random() < 0.12:
                pieces = [(self.names.pick(self.words["opener"]), OUTSIDE), *pieces]
            if pieces[-1][0][-1:] not in "。！？":
                pieces = [*pieces, (self.names.pick(CLOSERS), OUTSIDE)]
            if self.rng.random() < 0.05:
                pieces = [(text.translate(HALF_WIDTH), kind) for text, kind in pieces]
            result = assemble(pieces)
            if 0 < len(result.text) <= longest:
                return result

    def _body(self) -> list[Piece]:
        draw = self.rng.random()
        for templates, share in zip(self.labelled, LABELLED_SHARES, strict=True):
            if draw < share:
                return self._expand(self.names.pick(templates))
        if draw < PLAIN_SHARE:
            return self._expand(self.names.pick(self.plain))
        return self._salad(entities=self.rng.randint(0, 3))

    def _expand(self, nodes: list[Node]) -> list[Piece]:
        pieces: list[Piece] = []
        for place, node in enumerate(nodes):
            if isinstance(node, list):
                pieces.extend(self._expand(self.names.pick(node)))
            elif isinstance(node, tuple):
                following = nodes[place + 1] if place + 1 < len(nodes) else ""
                following = following if isinstance(following, str) else ""
                pieces.append(self._fill(node[0], following))
                if pieces[-1][1] in {"PER", "ORG"} and following[:1] not in AFTER_NAME and self.rng.random() < 0.08:
                    pieces.append((self.names.pick(self.words["adverbial"]), OUTSIDE))
            else:
                pieces.append((node, OUTSIDE))
        return pieces

    def _fill(self, slot: str, following: str) -> Piece:
        if not slot[0].isupper():
            return self.filler(slot), OUTSIDE
        if self.rng.random() < 0.04 and slot[0] in "PLO" and slot != "PF":
            slot = slot[0]
        name = self.names.draw(slot)
        while following and name[-1] == following[0] and name[-1] in "市省区县":
            name = self.names.draw(slot)
        return name, KIND[slot[0]]

    def filler(self, slot: str) -> str:
        """Plain words for a lower-case slot."""
        rng = self.rng
        if slot in self.words:
            return self.names.pick(self.words[slot])
        if slot == "num":
            return self.names.pick([str(rng.randint(1, 120)), *"一二三四五六七八九十两几", "上百", "二十", "3", "1"])
        if slot == "yr":
            return str(rng.randint(1890, 2026))
        if slot == "date":
            day = f"{rng.randint(1, 12)}月{rng.randint(1, 30)}日"
            return self.names.pick(
                [day, f"{rng.randint(1949, 2026)}年{day}", day + self.names.pick(["上午", "晚", "凌晨"])]
            )
        if slot == "tel":
            return "1" + "".join(self.names.pick("0123456789") for _ in range(10))
        if slot == "mail":
            return "".join(self.names.pick("abcdefghijklmnopqrstuvwxyz") for _ in range(5)) + "@mail.com"
        if slot == "c":
            return self.names.pick(self.names.common)
        if slot == "w":
            return "".join(self._word(self.names.pick("nnnvai")) for _ in range(rng.randint(1, 2)))[:8]
        return self._word(slot)

    def _word(self, tag: str) -> str:
        stock = self._stock.setdefault(tag, [])
        if not stock:
            stock.extend(self.dictionary.fillers[tag].sample(self.rng, 4096))
        return stock.pop()

    def _salad(self, *, entities: int) -> list[Piece]:
        """Names between random words: what follows a name is then no hint, its form is."""
        pieces = [piece for _ in range(self.rng.randint(1, 5)) for piece in self._chunk()]
        for _ in range(entities):
            slot = self.names.pick(["P", "PF", "L", "L", "LC", "O", "O", "OC", "LK", "P"])
            place = self.rng.randint(0, len(pieces))
            glue = self.names.pick(self.words["glue"])
            name = [(self.names.draw(slot), KIND[slot[0]])]
            if self.rng.random() < 0.6:
                name = [(glue, OUTSIDE), *name]
            if place < len(pieces) and pieces[place][1] == KIND[slot[0]]:
                name.append((self.names.pick(["、", "和", "，", "与", "的"]), OUTSIDE))
            before = pieces[place - 1][1] if place else OUTSIDE
            if before and name[0][1]:
                name.insert(0, (self.names.pick(["，", "和", "在", "对"]), OUTSIDE))
            if place < len(pieces) and pieces[place][1]:
                name.append((self.names.pick(["，", "和", "在", "对"]), OUTSIDE))
            pieces[place:place] = name
        return pieces

    def _chunk(self) -> list[Piece]:
        pattern = self.names.pick(["nv", "vn", "an", "dv", "n", "v", "nvn", "i", "dvn", "na", "a", "nn", "p", "p"])
        words = [self.filler("phrase") if tag == "p" else self._word(tag) for tag in pattern]
        if self.rng.random() < 0.4:
            words.insert(self.rng.randint(0, len(words)), self.names.pick(self.words["glue"]))
        return [(word, OUTSIDE) for word in words]


def assemble(pieces: list[Piece]) -> Sentence:
    """Text and spans of pieces; touching entities are merged by the convention in the module's docstring."""
    text = ""
    entities: list[tuple[str, int, int]] = []
    for piece, kind in pieces:
        start, text = len(text), text + piece
        if not kind:
            continue
        if entities and entities[-1][2] == start and entities[-1][0] == "LOC" and kind in {"LOC", "ORG"}:
            start = entities.pop()[1]
        entities.append((kind, start, len(text)))
    return Sentence(text, tuple(entities), tuple(pieces))


def _templates(name: str) -> list[list[Node]]:
    lines = (WORDLISTS / name).read_text(encoding="utf-8").splitlines()
    return [_parse(line) for line in lines if line.strip() and not line.startswith("#")]


def _parse(line: str) -> list[Node]:
    """Nodes of one template: text, `(slot, [])`, or a list of alternatives."""
    stack: list[list[list[Node]]] = [[[]]]
    for token in re.findall(r"\{\w+\}|[()|]|[^{}()|]+", line):
        if token == "(":
            stack.append([[]])
        elif token == ")":
            choices = stack.pop()
            stack[-1][-1].append(choices)
        elif token == "|":
            stack[-1].append([])
        else:
            stack[-1][-1].append((token[1:-1], []) if token[0] == "{" else token)
    return stack[0][0]
