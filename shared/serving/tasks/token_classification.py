"""Named entities: a tag per code point (or per word), decoded by a CRF where the bundle has one, else the best tag each.

A text longer than the program's limit is read in windows (`windows`); the emissions of all of them are put together and
decoded once over the whole text.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from shared.protocol.errors import Corrupt, Refusal, Refused
from shared.serving.answer import Array, Entities, Entity, Result
from shared.serving.tasks.crf import Crf, spans, viterbi
from shared.serving.tasks.encoding import Encoded, Encoder, Pieces, output_of, softmax, text_of, truncate_of
from shared.serving.tasks.task import Prepared, Run
from shared.serving.tasks.windows import MOST, guessed_rows, planned

SPECIAL = 2
"""Tokens around every window."""
BLANKS = 8
"""Code points per piece that are looked at in word mode: blanks give no piece."""
RUN_TOKENS = 4096
"""Padded tokens of one run of a text that has more rows than a batch may have; bounds its memory."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One text on its way: `rows` windows, and per row the positions whose emissions count, in order of the text.

    `offsets`: the code points of `text` each of those positions stands for, over all rows.
    """

    text: str
    rows: tuple[Encoded, ...]
    positions: tuple[list[int], ...]
    offsets: list[tuple[int, int]]


class TokenClassification:
    """`labels` are tags in id order, such as `B-PER`; offsets of entities are code points of the text as it came."""

    name = "token-classification"

    def __init__(
        self, encoder: Encoder, labels: Sequence[str], crf: Crf | None, *, char_level: bool, overlap: int = 64
    ) -> None:
        self._encoder = encoder
        self._size = max(1, encoder.max_length - SPECIAL)
        self._pieces = encoder.characters if char_level else encoder.words
        self._most = MOST * self._size * (1 if char_level else BLANKS)
        self._labels = tuple(labels)
        self._crf = crf
        self._overlap = overlap

    def estimate(self, item: object, parameters: Mapping[str, object]) -> int:  # noqa: ARG002 - of the port
        """One token per code point; as many full windows as a long text takes."""
        pieces = len(item) if isinstance(item, str) else self._size
        rows = guessed_rows(pieces, size=self._size, overlap=self._overlap)
        return rows * (min(pieces, self._size) + SPECIAL)

    def prepare(self, item: object, parameters: Mapping[str, object]) -> Prepared:
        """Windows of token ids and the places to tag; refused when empty or of too many windows."""
        text, truncate = text_of(item), truncate_of(parameters)
        pieces = self._pieces(text, most=self._most)
        windows = planned(pieces.begins, size=self._size, overlap=self._overlap)
        cut = pieces.cut or len(windows) > MOST
        if cut and not truncate:
            raise self._too_long(text, pieces)
        if len(windows) > MOST:
            windows = planned(pieces.begins[: windows[MOST - 1].end], size=self._size, overlap=self._overlap)
        rows: list[Encoded] = []
        positions: list[list[int]] = []
        for window in windows:
            rows.append(self._encoder.framed(pieces.ids[window.start : window.end]))
            owned = pieces.places[bisect_left(pieces.places, window.first) : bisect_left(pieces.places, window.last)]
            positions.append([place - window.start + 1 for place in owned])
        tagged = sum(len(each) for each in positions)
        reading = Reading(text=text, rows=tuple(rows), positions=tuple(positions), offsets=pieces.offsets[:tagged])
        tokens = max(len(row.ids) for row in rows)
        return Prepared(tokens=tokens, rows=len(rows), data=reading, truncated=cut, parameters=parameters)

    def steps(self, run: Run, batch: Sequence[Prepared]) -> Iterator[Sequence[Result | None]]:
        """One run for a batch within its budget; a text with more windows than that takes several, and may be abandoned."""
        rows = [row for item in batch for row in item.data.rows]
        many = max(1, RUN_TOKENS // batch[0].tokens) if len(batch) == 1 else len(rows)
        read: list[Array] = []
        for start in range(0, len(rows), many):
            if start:
                yield [None] * len(batch)
            chunk = rows[start : start + many]
            emissions = output_of(run(self._encoder.padded(chunk)), "emissions", "logits")
            if emissions.ndim != 3 or (emissions.shape[0], emissions.shape[2]) != (len(chunk), len(self._labels)):
                raise Corrupt(f"emissions have shape {emissions.shape}, expected {(len(chunk), -1, len(self._labels))}")
            read.extend(emissions)
        yield self._decoded(batch, read)

    def _decoded(self, batch: Sequence[Prepared], read: Sequence[Array]) -> list[Result]:
        """Emissions [longest, tags] of every row to entities; an entity's score is the probability of its first tag."""
        lengths = [len(item.data.offsets) for item in batch]
        # Only what is tagged, in order of the text, so that the chain runs over exactly those places.
        gathered = np.zeros((len(batch), max(lengths), len(self._labels)), dtype=np.float32)
        rows = iter(read)
        for i, item in enumerate(batch):
            place = 0
            for positions in item.data.positions:
                gathered[i, place : place + len(positions)] = next(rows)[positions]
                place += len(positions)
        if self._crf is not None:
            tags = viterbi(gathered, lengths, self._crf)
        else:
            best = gathered.argmax(axis=2)
            tags = [best[row, :length].tolist() for row, length in enumerate(lengths)]
        probabilities = softmax(gathered)
        return [
            Entities(entities=self._entities(item.data, found, probabilities[row]), truncated=item.truncated)
            for row, (item, found) in enumerate(zip(batch, tags, strict=True))
        ]

    def _entities(self, reading: Reading, tags: list[int], probabilities: Array) -> tuple[Entity, ...]:
        found: list[Entity] = []
        for span in spans([self._labels[tag] for tag in tags]):
            start, end = reading.offsets[span.start][0], reading.offsets[span.end - 1][1]
            score = float(probabilities[span.start, tags[span.start]])
            found.append(Entity(type=span.type, start=start, end=end, text=reading.text[start:end], score=score))
        return tuple(found)

    def _too_long(self, text: str, pieces: Pieces) -> Refused:
        limit = f"{MOST} windows of {self._encoder.max_length} tokens"
        long = f"{len(text)} characters" if pieces.cut else f"{len(pieces.ids)} tokens"
        return Refused(
            f"the text is too long for the model: {long}, the limit is {limit}",
            kind=Refusal.UNPROCESSABLE,
            field="text",
            value=len(text) if pieces.cut else len(pieces.ids),
            allowed=f"at most {limit}, or parameters.truncate true",
        )
