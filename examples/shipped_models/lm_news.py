"""News and stories from the NER grammar's templates, with names as they are in life and no random dictionary words."""

from __future__ import annotations

from examples.shipped_models.ner_grammar import Grammar, Node, Piece
from examples.shipped_models.ner_names import Names

SALAD = {"w", "v", "n", "a", "d", "i", "c", "trap", "phrase", "verb", "adj", "noun", "mail", "tel", "measure"}
"""Slots that any word may fill: good for a tagger, nonsense to read."""
SHORTEST = 7
"""Characters of a text; headlines and mere names are shorter."""


class PlausibleNames(Names):
    """Names without random characters: known ones, and common surnames with common given names."""

    def made_up(self, least: int, most: int) -> str:
        del least, most
        return self.pick(self.orgs["newbrand"])

    def surname(self) -> str:
        words = self.people["surnames_common"]
        return words[int(len(words) * self.rng.random() ** 2)]

    def given(self) -> str:
        kind = self.people["given_male" if self.chance(0.5) else "given_female"]
        return "".join(self.pick(kind) for _ in range(1 if self.chance(0.3) else 2))

    def chinese(self) -> str:
        return self.surname() + self.given()

    def foreign(self) -> str:
        if self.chance(0.6):
            return self.pick(self.people["foreign_known"])
        return self.pick(self.people["foreign_given"]) + "·" + self.pick(self.people["foreign_family"])

    def city(self) -> str:
        words = self.places["cities"]
        return words[int(len(words) * self.rng.random() ** 2)]

    def district(self) -> str:
        return self.pick(self.places["districts"])

    def seat(self) -> str:
        return self.city() if self.chance(0.7) else self.province()

    def foreign_place(self) -> str:
        return self.pick(self.places["foreign"])

    def water(self) -> str:
        return self.pick(self.places["waters"])

    def scenic(self) -> str:
        return self.pick(self.places["scenic"])

    def street(self) -> str:
        return self.pick(self.places["streets"])

    def brand(self) -> str:
        return self.pick(self.orgs["newbrand"])

    def company(self) -> str:
        return self.famous(self.orgs["companies"])


class News(Grammar):
    """The NER grammar's sentences that read well."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.names = PlausibleNames(self.rng, self.dictionary)
        labelled = [node for templates in self.labelled[:4] for node in templates if not _is_salad(node)]
        plain = [node for node in self.plain if not _is_salad(node)]
        self.kinds = labelled, plain

    def text(self) -> str:
        """One sentence that ends in a full stop."""
        labelled, plain, text = *self.kinds, ""
        while len(text) < SHORTEST:
            body = self._expand(self.names.pick(labelled if self.rng.random() < 0.6 else plain))
            text = "".join(piece for piece, _ in body).strip()
        return text if text[-1] in "。！？…”" else text.rstrip("，；、") + "。"

    def _fill(self, slot: str, following: str) -> Piece:
        # The grammar now and then swaps a slot for a wider kind, which a reader would stumble over.
        state = self.names.draw(slot) if slot[0].isupper() else self.filler(slot)
        while following and state[-1] == following[0]:
            state = self.names.draw(slot) if slot[0].isupper() else self.filler(slot)
        return state, ""


def _is_salad(nodes: list[Node]) -> bool:
    for node in nodes:
        if isinstance(node, tuple) and node[0] in SALAD:
            return True
        if isinstance(node, list) and any(_is_salad(choice) for choice in node):
            return True
    return False
