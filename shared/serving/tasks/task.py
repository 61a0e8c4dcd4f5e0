"""The task port: pre- and post-processing of one kind of model, stateless and callable from any thread."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from shared.serving.answer import Result
from shared.serving.sessions.session import Feeds, Outputs

Run = Callable[[Feeds], Outputs]
"""Runs the program once; arrays it has no input for are left out."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """One item ready for a batch: `rows` rows of `tokens` tokens each (one per 256 elements for tensors); `data` the task's own.

    Only items of one `group` can be computed together.
    """

    tokens: int
    data: Any
    rows: int = 1
    truncated: bool = False
    parameters: Mapping[str, object] = {}
    group: str = ""


class Task(Protocol):
    """One kind of model."""

    name: str

    def estimate(self, item: object, parameters: Mapping[str, object]) -> int:
        """Tokens an item will cost, guessed without tokenizing; never an error."""
        ...

    def prepare(self, item: object, parameters: Mapping[str, object]) -> Prepared:
        """Tokenize and check one item (a str, or a mapping of arrays).

        Raises:
            Refused: the model cannot take it; too long says the limit.

        """
        ...

    def steps(self, run: Run, batch: Sequence[Prepared]) -> Iterator[Sequence[Result | None]]:
        """Compute a batch; each step has, per item, its result, a piece of it, or None for nothing new.

        An encoder runs once and yields once; a generator yields after every token until each item had a `Text` with
        `finish` set. A step may begin by learning which items (places in `batch`) nobody wants any more: they are sent
        into the iterator where it is a generator, and need not be computed further. Closing it abandons the rest.
        """
        ...
