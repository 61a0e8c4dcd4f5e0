"""Short texts from `wordlists/lm_templates.txt`: weather, shopping, travel, daily life, stories, notices, devices, news.

In a template `(a|b|)` is a choice, `{slot}` a word of `lm_words.txt`, `{3-20}` a number, and `{a:slot}` a word that `{a}`
says again later in the same text.
"""

from __future__ import annotations

import random
import re
from functools import cache

from examples.shipped_models.ner_choices import read_sections
from examples.shipped_models.phrase_bank import WORDLISTS

INNERMOST = re.compile(r"\(([^()]*)\)")
SLOT = re.compile(r"\{(\w+(?:-\d+)?)(?::(\w+))?\}")


@cache
def sections() -> dict[str, tuple[float, list[str]]]:
    """Section -> its share and its templates."""
    found: dict[str, tuple[float, list[str]]] = {}
    current: list[str] = []
    for line in (WORDLISTS / "lm_templates.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            name, share = line[1:-1].split()
            current = []
            found[name] = float(share), current
        elif line and not line.startswith("#"):
            current.append(line)
    return found


class Scenes:
    """Draws texts of one section from one random stream."""

    def __init__(self, stream: random.Random) -> None:
        self.random = stream
        self.words = read_sections("lm_words.txt")
        self.names = list(sections())
        self.shares = [share for share, _ in sections().values()]

    def section(self) -> str:
        """A section, as often as its share says."""
        return self.random.choices(self.names, self.shares)[0]

    def text(self, section: str) -> str:
        """One text of a section."""
        return self.expand(self.random.choice(sections()[section][1]))

    def expand(self, template: str) -> str:
        """A template with every choice made and every slot filled."""
        while found := INNERMOST.search(template):
            chosen = self.random.choice(found.group(1).split("|"))
            template = template[: found.start()] + chosen + template[found.end() :]
        said: dict[str, str] = {}
        return SLOT.sub(lambda slot: self._fill(slot.group(1), slot.group(2), said), template)

    def _fill(self, name: str, kind: str | None, said: dict[str, str]) -> str:
        if name in said and kind is None:
            return said[name]
        if "-" in name:
            low, high = map(int, name.split("-"))
            return str(self.random.randint(low, high))
        word = self.random.choice(self.words[kind or name])
        if word in said.values():
            word = self.random.choice(self.words[kind or name])
        said[name if kind else f"{name} {len(said)}"] = word
        return word
