"""One label per text: whole-text tokens in, softmax over the program's logits out."""

from collections.abc import Iterator, Mapping, Sequence

from shared.protocol.errors import Corrupt
from shared.serving.answer import Label, Result
from shared.serving.sessions.session import Feeds, Outputs
from shared.serving.tasks.encoding import (
    Encoder,
    guessed_tokens,
    output_of,
    prepared,
    softmax,
    text_of,
    truncate_of,
)
from shared.serving.tasks.task import Prepared, Run


class TextClassification:
    """`labels` in the order of the logits."""

    name = "text-classification"

    def __init__(self, encoder: Encoder, labels: Sequence[str]) -> None:
        self._encoder = encoder
        self._labels = tuple(labels)

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
        """Logits [rows, labels] to labels with probabilities."""
        logits = output_of(outputs, "logits")
        if logits.shape != (len(batch), len(self._labels)):
            raise Corrupt(f"logits have shape {logits.shape}, expected {(len(batch), len(self._labels))}")
        results: list[Result] = []
        for item, scores in zip(batch, softmax(logits).tolist(), strict=True):
            best = max(range(len(scores)), key=scores.__getitem__)
            results.append(
                Label(
                    label=self._labels[best],
                    score=scores[best],
                    scores=dict(zip(self._labels, scores, strict=True)),
                    truncated=item.truncated,
                )
            )
        return results
