"""Texts and hints as the arrays of an extraction program, and its logits back as those of each question.

One row asks one hint of one window. The program reads each window and each hint once a run and pairs them by number, so
rows of one text share what is expensive.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from shared.bundle.manifest import Extraction
from shared.protocol.errors import Corrupt
from shared.serving.answer import Array
from shared.serving.sessions.session import Feeds, Outputs

INPUTS = ("input_ids", "attention_mask", "hint_ids", "hint_mask", "hint_start", "row_window", "row_hint")
HEADS, TAILS = "heads", "tails"


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """A text as the program reads it: tokens, special ones included, the code points of each, and windows over them.

    `position` is that of a hint's first token: right after a window, which is a full one where there are several.
    """

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]
    windows: tuple[tuple[int, int], ...]
    position: int


class Row(NamedTuple):
    """`hint` (token ids) is asked of window number `window` of text number `text`; it is question number `question`."""

    text: int
    window: int
    question: int
    hint: tuple[int, ...]


def passage(text: str, ids: list[int], offsets: list[tuple[int, int]], extraction: Extraction) -> Passage:
    """The text in windows of the extraction's size, each `stride` after the one before it."""
    count = windows_of(len(ids), extraction)
    starts = [number * extraction.stride for number in range(count)]
    return Passage(
        text=text,
        ids=ids,
        offsets=offsets,
        windows=tuple((start, min(start + extraction.window, len(ids))) for start in starts),
        position=len(ids) if count == 1 else extraction.window,
    )


def windows_of(tokens: int, extraction: Extraction) -> int:
    """How many windows `tokens` tokens take."""
    return 1 + max(0, -(-(tokens - extraction.window) // extraction.stride))


def runs(rows: Iterable[Row], passages: Sequence[Passage], *, padded: int) -> Iterator[list[Row]]:
    """Rows in order, as many at once as fit into `padded` tokens (rows x longest window and hint), at least one."""
    chunk: list[Row] = []
    longest = hint = 0
    for row in rows:
        start, end = passages[row.text].windows[row.window]
        longer, longer_hint = max(longest, end - start), max(hint, len(row.hint))
        if chunk and (len(chunk) + 1) * (longer + longer_hint) > padded:
            yield chunk
            chunk, longer, longer_hint = [], end - start, len(row.hint)
        chunk.append(row)
        longest, hint = longer, longer_hint
    if chunk:
        yield chunk


def feeds_of(rows: Sequence[Row], passages: Sequence[Passage]) -> Feeds:
    """The program's inputs, all int64: windows and hints once each, padded with 0 and masked, and which row pairs which."""
    windows = {key: number for number, key in enumerate(dict.fromkeys((row.text, row.window) for row in rows))}
    # Where a hint begins depends on the text, so texts do not share hints.
    hints = {key: number for number, key in enumerate(dict.fromkeys((row.text, row.hint) for row in rows))}
    input_ids, attention_mask = _padded(
        [passages[text].ids[slice(*passages[text].windows[window])] for text, window in windows]
    )
    hint_ids, hint_mask = _padded([hint for _, hint in hints])
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "hint_ids": hint_ids,
        "hint_mask": hint_mask,
        "hint_start": np.array([passages[text].position for text, _ in hints], dtype=np.int64),
        "row_window": np.array([windows[row.text, row.window] for row in rows], dtype=np.int64),
        "row_hint": np.array([hints[row.text, row.hint] for row in rows], dtype=np.int64),
    }


class Logits:
    """Logits of every token of a text for one question, put together from its windows in order."""

    def __init__(self, tokens: int) -> None:
        self.heads: Array = np.full(tokens, np.nan)
        self.tails: Array = np.full(tokens, np.nan)

    def take(self, start: int, end: int, heads: Array, tails: Array) -> None:
        """What one window says of tokens `start` to `end`; where another said something already, their mean."""
        for all_of_them, said in ((self.heads, heads), (self.tails, tails)):
            before, now = all_of_them[start:end], said[: end - start].astype(np.float64)
            all_of_them[start:end] = np.where(np.isnan(before), now, (before + now) / 2)


def logits_of(outputs: Outputs, rows: int, tokens: int) -> tuple[Array, Array]:
    """Heads and tails, each float [rows, tokens].

    Raises:
        Corrupt: the program gave something else.

    """
    try:
        heads, tails = outputs[HEADS], outputs[TAILS]
    except KeyError as error:
        raise Corrupt(f"the program has no output {error}") from error
    for name, array in ((HEADS, heads), (TAILS, tails)):
        if array.shape != (rows, tokens):
            raise Corrupt(f"{name} have shape {array.shape}, expected {(rows, tokens)}")
    return heads, tails


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    ids = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return ids, mask
