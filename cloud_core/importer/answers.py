"""What a variant answers, asked as a worker asks it: the task's own preparation, steps and finish on a session of its runtime."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cloud_core.importer.running import OtherArithmetic
from cloud_core.replicas.runtimes import TORCH
from shared.bundle.manifest import Manifest
from shared.protocol.errors import Corrupt
from shared.serving.answer import Array, Result, Text
from shared.serving.lanes.sinks import joined
from shared.serving.sessions.onnx import OnnxSession
from shared.serving.sessions.session import Feeds, Outputs, Session
from shared.serving.tasks.choose import task_for
from shared.serving.tasks.task import Task

THREADS = 2


class Model:
    """A task on a loaded session; one thread."""

    def __init__(self, task: Task, session: Session) -> None:
        self.task = task
        self._session = session
        self._wanted = frozenset(spec.name for spec in session.inputs)
        self._kept: list[dict[str, Array]] | None = None

    def run(self, feeds: Feeds) -> Outputs:
        """One run of the program; arrays it has no input for are left out."""
        given = {name: value for name, value in feeds.items() if name in self._wanted}
        if self._kept is not None:
            self._kept.append(given)
        return self._session.run(given)

    def answers(self, items: Sequence[object], *, rows: int = 1) -> list[Result]:
        """One result per item, `rows` at a time in the order given; over-long texts are cut.

        Raises:
            Refused: an item the model cannot take.
            Corrupt: the program fails, or ends before every result is there.

        """
        return [result for i in range(0, len(items), rows) for result in self._batch(items[i : i + rows])]

    def recorded(self, items: Sequence[object]) -> list[dict[str, Array]]:
        """What goes into the program while it answers `items` one by one: samples of its inputs as they are in use."""
        self._kept = []
        try:
            self.answers(items)
            return self._kept
        finally:
            self._kept = None

    def _batch(self, items: Sequence[object]) -> list[Result]:
        prepared = [self.task.prepare(item, {"truncate": True}) for item in items]
        found: list[Result | None] = [None] * len(items)
        left = set(range(len(items)))
        for step in self.task.steps(self.run, prepared):
            for i in tuple(left):
                piece, before = step[i], found[i]
                if piece is None:
                    continue
                found[i] = piece if before is None else joined(before, piece)
                if not (isinstance(piece, Text) and piece.finish is None):
                    left.discard(i)
            if not left:
                break
        results = [result for result in found if result is not None]
        if left or len(results) < len(items):
            raise Corrupt("the program ended before every result was there")
        return results


@contextmanager
def opened_variant(manifest: Manifest, folder: Path, variant: str, *, elsewhere: bool = False) -> Iterator[Model]:
    """A variant of the bundle in `folder`, loaded; files of the bundle need not be described in the manifest yet.

    `elsewhere`: it rounds as another machine might (see `OtherArithmetic`).

    Raises:
        Corrupt: it cannot be loaded.

    """
    program = manifest.variant(variant)
    path = folder / program.files[0]
    session = OtherArithmetic(path) if elsewhere and program.runtime != TORCH else _session(program.runtime, path)
    session.load()
    try:
        yield Model(task_for(manifest, folder), session)
    finally:
        session.close()


def answer_with(
    manifest: Manifest, folder: Path, variant: str, items: Sequence[object], *, rows: int = 1
) -> list[Result]:
    """One result per item (a text, or arrays by name), `rows` to a batch.

    Raises:
        Refused: an item the model cannot take.
        Corrupt: the variant cannot be loaded or run.

    """
    with opened_variant(manifest, folder, variant) as model:
        return model.answers(items, rows=rows)


def recorded_feeds(
    manifest: Manifest, folder: Path, variant: str, items: Sequence[object], *, most: int
) -> list[Mapping[str, Array]]:
    """Samples of the program's inputs, of items in the order given until `most` numbers of its first input are there."""
    found: list[Mapping[str, Array]] = []
    with opened_variant(manifest, folder, variant) as model:
        seen = 0
        for item in items:
            feeds = model.recorded([item])
            found += feeds
            seen += sum(next(iter(each.values())).size for each in feeds)
            if seen >= most:
                break
    return found


def _session(runtime: str, path: Path) -> Session:
    if runtime == TORCH:
        # Not loaded for imports that make no torch program.
        from cloud_core.replicas.torch_program import TorchProgram  # noqa: PLC0415

        # One thread: torch's wait for each other busily, and a machine that imports has other work.
        return TorchProgram(path, threads=1, device="cpu")
    return OnnxSession(path, threads=THREADS)
