"""One item on its way through a queue, who computes it, and where its result goes."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from shared.protocol.errors import TidelineError
from shared.serving.answer import Result, Timing
from shared.serving.decide.batching import Waiting
from shared.serving.tasks.task import Prepared


class Sink(Protocol):
    """Where results of a request go; called on the loop's thread only. `index` is the item's place in the request."""

    def deliver(self, index: int, result: Result, timing: Timing, *, final: bool) -> None:
        """One result, or one piece of it while `final` is false."""
        ...

    def fail(self, index: int, error: TidelineError) -> None:
        """The item will have no result."""
        ...


class Interruptible(Protocol):
    """What computes a batch; see `Session`."""

    def interrupt(self) -> None:
        """End what runs."""
        ...

    def resume(self) -> None:
        """Let it run again."""
        ...


class Entry:
    """One item that waits or is computed.

    `gone`: nobody wants it any more; `done`: its result is out; `left`: when it left the queue.
    """

    __slots__ = ("done", "gone", "id", "index", "left", "prepared", "sink", "waiting")

    def __init__(self, prepared: Prepared, sink: Sink, index: int) -> None:
        self.prepared = prepared
        self.sink = sink
        self.index = index
        self.id = -1
        self.waiting = Waiting(id=-1, tokens=prepared.tokens, rows=prepared.rows)
        self.left = 0.0
        self.gone = False
        self.done = False


class Running(NamedTuple):
    """What a lane computes, its padded tokens, since when, and the tokens its entries have alone."""

    entries: Sequence[Entry]
    padded: int
    since: float
    tokens: int

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for a result of it."""
        return not all(entry.gone or entry.done for entry in self.entries)
