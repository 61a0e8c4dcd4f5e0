"""Private marks round clauses while a sentence is made, so that each clause's own polarity can be learnt beside the whole's."""

from __future__ import annotations

GOOD_OPENS, BAD_OPENS, CLOSES = (
    "\ue001",
    "\ue002",
    "\ue000",
)  # private marks around a clause, never in the text given out
OPENS = (BAD_OPENS, GOOD_OPENS)
NEUTRAL = 2


def plain(marked: str) -> tuple[str, list[int]]:
    """The text without marks, and for each character the polarity of its clause (2 outside any)."""
    text: list[str] = []
    sides: list[int] = []
    side = NEUTRAL
    for character in marked:
        if character in OPENS:
            side = OPENS.index(character)
        elif character == CLOSES:
            side = NEUTRAL
        else:
            text.append(character)
            sides.append(side)
    return "".join(text), sides
