"""One vector per text: pooled and normalized in the graph, or here where the bundle says so."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from shared.bundle.manifest import Processing
from shared.protocol.errors import Corrupt
from shared.serving.answer import Array, Embedding, Result
from shared.serving.sessions.session import Feeds, Outputs
from shared.serving.tasks.encoding import (
    Encoder,
    guessed_tokens,
    output_of,
    prepared,
    text_of,
    truncate_of,
)
from shared.serving.tasks.task import Prepared, Run

POOLINGS = ("cls", "mean")


class TextEmbedding:
    """`pooling` is `cls` or `mean` over real tokens, where the program gives states of every token."""

    name = "text-embedding"

    def __init__(self, encoder: Encoder, processing: Processing) -> None:
        if processing.pooling not in (None, *POOLINGS):
            raise Corrupt(f"unknown pooling {processing.pooling}; known: {', '.join(POOLINGS)}")
        self._encoder = encoder
        self._pooling = processing.pooling
        self._normalize = processing.normalize

    def estimate(self, item: object, parameters: Mapping[str, object]) -> int:  # noqa: ARG002 - of the port
        """One token per code point, capped by the limit."""
        return guessed_tokens(item, self._encoder.max_length)

    def prepare(self, item: object, parameters: Mapping[str, object]) -> Prepared:
        """Tokens of the text; refused when empty or too long."""
        return prepared(self._encoder.text(text_of(item), truncate=truncate_of(parameters)), parameters)

    def steps(self, run: Run, batch: Sequence[Prepared]) -> Iterator[list[Result]]:
        """One run, one result each."""
        yield self.finish(batch, run(self.collate(batch)))

    def collate(self, batch: Sequence[Prepared]) -> Feeds:
        """Padded ids, mask and types, int64 [rows, longest]."""
        return self._encoder.padded([item.data for item in batch])

    def finish(self, batch: Sequence[Prepared], outputs: Outputs) -> list[Result]:
        """float32 [rows, dim], or states [rows, longest, dim] to be pooled, to one vector each."""
        vectors = self._pooled(batch, output_of(outputs, "pooled", "embedding", "sentence_embedding"))
        if self._normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return [
            Embedding(embedding=vectors[row], tokens=len(item.data.ids), truncated=item.truncated)
            for row, item in enumerate(batch)
        ]

    def _pooled(self, batch: Sequence[Prepared], values: Array) -> Array:
        if values.ndim == 2 and len(values) == len(batch):
            return values.astype(np.float32)
        if values.ndim != 3 or len(values) != len(batch) or self._pooling is None:
            raise Corrupt(f"the program gave shape {values.shape} and the bundle says pooling {self._pooling}")
        if self._pooling == "cls":
            return values[:, 0].astype(np.float32)
        return np.stack([values[row, : len(item.data.ids)].mean(axis=0) for row, item in enumerate(batch)]).astype(
            np.float32
        )
