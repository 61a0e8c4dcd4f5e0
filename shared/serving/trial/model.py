"""A task on a session, run as a worker runs it, on the caller's own thread."""

from collections.abc import Mapping, Sequence

from shared.protocol.errors import Corrupt
from shared.serving.answer import Result, Text
from shared.serving.lanes.sinks import joined
from shared.serving.sessions.session import Feeds, Outputs, Session
from shared.serving.tasks.task import Prepared, Task


class Model:
    """Answers items, all of them computed in one batch; the session is loaded."""

    def __init__(self, task: Task, session: Session) -> None:
        self.task = task
        self._session = session
        self._wanted = frozenset(spec.name for spec in session.inputs)

    def prepared(self, items: Sequence[object], parameters: Mapping[str, object] | None = None) -> list[Prepared]:
        """Every item ready for a batch; what is too long is cut."""
        return [self.task.prepare(item, {**(parameters or {}), "truncate": True}) for item in items]

    def answers(self, items: Sequence[object], parameters: Mapping[str, object] | None = None) -> list[Result]:
        """One result per item."""
        return self.computed(self.prepared(items, parameters))

    def computed(self, batch: Sequence[Prepared]) -> list[Result]:
        """One result for each of `batch`.

        Raises:
            Corrupt: the program wants other inputs than its task makes, or ended too early.

        """
        found: list[Result | None] = [None] * len(batch)
        left = set(range(len(batch)))
        for step in self.task.steps(self._run, batch):
            for i in tuple(left):
                piece, before = step[i], found[i]
                if piece is None:
                    continue
                found[i] = joined(before, piece) if before is not None else piece
                if not (isinstance(piece, Text) and piece.finish is None):
                    left.discard(i)
            if not left:
                return [result for result in found if result is not None]
        raise Corrupt("the program ended before every result was there")

    def _run(self, feeds: Feeds) -> Outputs:
        if missing := self._wanted - feeds.keys():
            raise Corrupt(f"the program wants inputs its task does not make: {', '.join(sorted(missing))}")
        return self._session.run({name: array for name, array in feeds.items() if name in self._wanted})
