"""The hand-written material of the grammars: domains with their aspects, whole event clauses, idioms and turns.

Everything is read from `wordlists/`: `domains_*.txt` (aspect nouns | good | bad, under a line of subjects),
`events_{good,bad}*.txt` (one clause a line), `idioms_{good,bad}.txt`, `turns.txt` (named sections of words),
`events_swap*.txt` (a start that the end overturns), `pairs*.txt` (good | bad, nearly the same words) and `polar_words*.txt`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

WORDLISTS = Path(__file__).parent / "wordlists"
Polar = tuple[list[str], list[str]]  # index 0: bad, 1: good, as the labels


@dataclass(frozen=True)
class Aspect:
    """What of a thing is judged, and the phrases that judge it."""

    nouns: list[str]
    phrases: Polar


@dataclass(frozen=True)
class Domain:
    """One kind of thing or place that people write about."""

    name: str
    subjects: list[str]
    aspects: list[Aspect]


@dataclass(frozen=True)
class PhraseBank:
    """All the material; `turns` is keyed by section name."""

    domains: list[Domain]
    events: Polar
    idioms: Polar
    turns: dict[str, list[str]]
    swaps: tuple[list[tuple[str, str]], list[tuple[str, str]]]
    pairs: Polar
    words: Polar
    texts: list[str] = field(repr=False, default_factory=list)

    def polar(self, section: str) -> Polar:
        return self.turns[section + "_bad"], self.turns[section + "_good"]


def _lines(pattern: str) -> list[str]:
    found = sorted(WORDLISTS.glob(pattern))
    lines = [line.strip() for path in found for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


def _domains() -> list[Domain]:
    domains: list[Domain] = []
    for line in _lines("domains_*.txt"):
        if line.startswith("#"):
            name, _, subjects = line[1:].partition(":")
            domains.append(Domain(name.strip(), subjects.split(), []))
            continue
        nouns, good, bad = (part.split() for part in line.split("|"))
        domains[-1].aspects.append(Aspect(nouns, (bad, good)))
    return domains


def _turns() -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in _lines("turns*.txt"):
        if line.startswith("#"):
            current = sections.setdefault(line[1:].partition(":")[0].strip(), [])
        else:
            current.extend(line.split())
    return sections


def _swaps() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    good: list[tuple[str, str]] = []
    bad: list[tuple[str, str]] = []
    current = good
    for line in _lines("events_swap*.txt"):
        if line.startswith("#"):
            current = good if "=> good" in line or "well" in line else bad
            continue
        start, _, end = line.partition("|")
        current.append((start.strip(), end.strip()))
    return bad, good


def _pairs() -> Polar:
    """The same thing gone well and gone badly, in nearly the same words."""
    split = [line.split("|") for line in _lines("pairs*.txt")]
    return [bad for _, bad in split], [good for good, _ in split]


def _words() -> Polar:
    """Single words that are good or bad by themselves."""
    words: Polar = ([], [])
    side = 0
    for line in _lines("polar_words*.txt"):
        if line.startswith("#"):
            side = int(line == "# good")
        else:
            words[side].extend(line.split())
    return words


@cache
def load_bank() -> PhraseBank:
    """Read all word lists once."""
    return PhraseBank(
        domains=_domains(),
        events=(_lines("events_bad*.txt"), _lines("events_good*.txt")),
        idioms=(
            [word for line in _lines("idioms_bad*.txt") for word in line.split()],
            [word for line in _lines("idioms_good*.txt") for word in line.split()],
        ),
        turns=_turns(),
        swaps=_swaps(),
        pairs=_pairs(),
        words=_words(),
        texts=[
            line
            for pattern in ("domains_*", "events_*", "idioms_*", "turns*", "pairs*", "polar_*")
            for line in _lines(pattern + ".txt")
        ],
    )
