"""Named entities: a tag per code point (or per piece), decoded by a CRF where the bundle has one, else the best tag each."""

from collections.abc import Mapping, Sequence

import numpy as np

from shared.protocol.errors import Corrupt
from shared.serving.answer import Array, Entities, Entity, Result
from shared.serving.sessions.session import Feeds, Outputs
from shared.serving.tasks.crf import Crf, spans, viterbi
from shared.serving.tasks.encoding import (
    Encoded,
    Encoder,
    guessed_tokens,
    output_of,
    prepared,
    softmax,
    text_of,
    truncate_of,
)
from shared.serving.tasks.task import Prepared


class TokenClassification:
    """`labels` are tags in id order, such as `B-PER`; offsets of entities are code points of the text as it came."""

    name = "token-classification"

    def __init__(self, encoder: Encoder, labels: Sequence[str], crf: Crf | None, *, char_level: bool) -> None:
        self._encoder = encoder
        self._encode = encoder.characters if char_level else encoder.pieces
        self._labels = tuple(labels)
        self._crf = crf

    def estimate(self, item: object) -> int:
        """One token per code point, capped by the limit."""
        return guessed_tokens(item, self._encoder.max_length)

    def prepare(self, item: object, parameters: Mapping[str, object]) -> Prepared:
        """Token ids and the places to tag; refused when empty or too long."""
        return prepared(self._encode(text_of(item), truncate=truncate_of(parameters)), parameters)

    def collate(self, batch: Sequence[Prepared]) -> Feeds:
        """Padded ids, mask and types, int64 [rows, longest]."""
        return self._encoder.padded([item.data for item in batch])

    def finish(self, batch: Sequence[Prepared], outputs: Outputs) -> list[Result]:
        """Emissions [rows, longest, tags] to entities; an entity's score is the mean probability of its tags."""
        emissions = output_of(outputs, "emissions", "logits")
        if emissions.ndim != 3 or emissions.shape[0] != len(batch) or emissions.shape[2] != len(self._labels):
            raise Corrupt(f"emissions have shape {emissions.shape}, expected ({len(batch)}, ?, {len(self._labels)})")
        encoded: list[Encoded] = [item.data for item in batch]
        lengths = [len(item.places) for item in encoded]
        # Only first pieces are labelled: gather their emissions, so that the chain runs over exactly those places.
        gathered = np.zeros((len(batch), max(lengths), len(self._labels)), dtype=np.float32)
        for row, item in enumerate(encoded):
            gathered[row, : lengths[row]] = emissions[row, list(item.places)]
        if self._crf is not None:
            tags = viterbi(gathered, lengths, self._crf)
        else:
            best = gathered.argmax(axis=2)
            tags = [best[row, :length].tolist() for row, length in enumerate(lengths)]
        probabilities = softmax(gathered)
        return [
            Entities(entities=self._entities(item, found, probabilities[row]), truncated=item.truncated)
            for row, (item, found) in enumerate(zip(encoded, tags, strict=True))
        ]

    def _entities(self, item: Encoded, tags: list[int], probabilities: Array) -> tuple[Entity, ...]:
        found: list[Entity] = []
        for span in spans([self._labels[tag] for tag in tags]):
            start, end = item.offsets[span.start][0], item.offsets[span.end - 1][1]
            score = float(np.mean([probabilities[place, tags[place]] for place in range(span.start, span.end)]))
            found.append(Entity(type=span.type, start=start, end=end, text=item.text[start:end], score=score))
        return tuple(found)
