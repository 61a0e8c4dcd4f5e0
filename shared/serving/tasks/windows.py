"""Reading a long text in windows that overlap, so that every place is decided where it has context on both sides.

What windows give for the places they own is put together in order and decoded once: no entity is cut by construction.
"""

from collections.abc import Sequence
from typing import NamedTuple

MOST = 64
"""Windows of one text; a longer text is refused, or cut where the request says so."""
INSIDE, WORD, CLAUSE, SENTENCE = range(4)
"""How good a piece is as the first of a window: not at all, as any word is, after punctuation, after a sentence."""
_SENTENCE = frozenset("。！？；!?;…\n\r")
_CLAUSE = frozenset("，、：,:.)）」』”》〉】 \t\u3000")


class Window(NamedTuple):
    """Pieces `start` to `end` are read; what is said of pieces `first` to `last` counts. Ends are exclusive."""

    start: int
    end: int
    first: int
    last: int


def planned(begins: Sequence[int], *, size: int, overlap: int) -> list[Window]:
    """Windows over `len(begins)` pieces; one where all fit.

    A window shares at least `overlap` pieces with the one before it (at most a quarter of `size`, so that reading gets
    on), and up to twice as many where it can then begin after a sentence or a punctuation mark. Each piece belongs to the
    window in which it has more context on its poorer side.

    Args:
        begins: for each piece how good it is to begin a window with it.
        size: pieces of a window, 1 or more.
        overlap: pieces that two windows share.

    """
    length = len(begins)
    shared = min(overlap, size // 4)
    starts = [0]
    while starts[-1] + size < length:
        starts.append(_next_start(begins, starts[-1], size, shared))
    ends = [min(start + size, length) for start in starts]
    # Left of the middle of what two windows share the first one sees more to the right than the second to the left.
    middles = [(start + end + 1) // 2 for start, end in zip(starts[1:], ends, strict=False)]
    return [
        Window(start, end, first, last)
        for start, end, first, last in zip(starts, ends, [0, *middles], [*middles, length], strict=True)
    ]


def guessed_rows(tokens: int, *, size: int, overlap: int) -> int:
    """About how many windows `tokens` pieces take."""
    shared = min(overlap, size // 4)
    return min(MOST, 1 + max(0, -(-(tokens - size) // (size - shared))))


def begin_after(character: str) -> int:
    """How good it is to begin a window right after `character`."""
    if character in _SENTENCE:
        return SENTENCE
    return CLAUSE if character in _CLAUSE else WORD


def _next_start(begins: Sequence[int], start: int, size: int, shared: int) -> int:
    latest = start + max(1, size - shared)
    earliest = max(start + 1, latest - shared)
    best = max(range(latest, earliest - 1, -1), key=begins.__getitem__)
    if begins[best] != INSIDE:
        return best
    # A word as long as that is cut: its tag hangs on its first piece, which the window before it has.
    return latest
