"""The task port: pre- and post-processing of one kind of model, stateless and callable from any thread."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from shared.serving.answer import Result
from shared.serving.sessions.session import Feeds, Outputs


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """One item ready for a batch. `tokens` is its cost in tokens (one per 256 elements for tensors); `data` the task's own."""

    tokens: int
    data: Any
    truncated: bool = False
    parameters: Mapping[str, object] = {}


class Task(Protocol):
    """One kind of model."""

    name: str

    def estimate(self, item: object) -> int:
        """Tokens an item will cost, guessed without tokenizing; never an error."""
        ...

    def prepare(self, item: object, parameters: Mapping[str, object]) -> Prepared:
        """Tokenize and check one item (a str, or a mapping of arrays).

        Raises:
            Refused: the model cannot take it; too long says the limit.

        """
        ...

    def collate(self, batch: Sequence[Prepared]) -> Feeds:
        """Arrays for one run, padded to the longest."""
        ...

    def finish(self, batch: Sequence[Prepared], outputs: Outputs) -> list[Result]:
        """One result per item from the outputs of one step."""
        ...
