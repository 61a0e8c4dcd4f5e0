"""Word lists and the random choices that every builder of names makes.

All choices go through the one `random.Random` of a run, so equal seeds give equal names.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from examples.shipped_models.ner_dictionary import Dictionary, frequent_characters

WORDLISTS = Path(__file__).parent / "wordlists"


def read_sections(name: str) -> dict[str, list[str]]:
    """A word list file: `[section]` lines, then blank-separated words; `#` starts a comment line."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in (WORDLISTS / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            current.extend(line.split())
    return sections


class Choices:
    """The word lists of people, places and organisations, and ways to draw from them."""

    def __init__(self, rng: random.Random, dictionary: Dictionary) -> None:
        self.rng = rng
        self.people = read_sections("ner_people.txt")
        self.places = read_sections("ner_places.txt")
        self.orgs = read_sections("ner_orgs.txt")
        self.dictionary = dictionary
        self.common = frequent_characters(2600)

    def pick(self, words: Sequence[str]) -> str:
        """One of `words`."""
        return words[int(self.rng.random() * len(words))]

    def chance(self, share: float) -> bool:
        """True with probability `share`."""
        return self.rng.random() < share

    def made_up(self, least: int, most: int) -> str:
        """A run of random common characters, the stem of a name nobody has seen."""
        return "".join(self.pick(self.common) for _ in range(self.rng.randint(least, most)))

    def one_of_places(self, section: str, known: float, other: Callable[[], str]) -> str:
        """A place of a list with probability `known`, else what `other` makes up."""
        return self.pick(self.places[section]) if self.chance(known) else other()

    def one_of_orgs(self, section: str, known: float, other: Callable[[], str]) -> str:
        """An organisation of a list with probability `known`, else what `other` makes up."""
        return self.famous(self.orgs[section]) if self.chance(known) else other()

    def famous(self, words: Sequence[str]) -> str:
        """One of `words`, the ones at the top of the list more often."""
        return words[int(self.rng.random() ** 1.6 * len(words))]
