"""What a bundle in a folder answers, by the engine's own task and session, alone or in batches."""

from collections.abc import Sequence
from pathlib import Path

from shared.bundle.manifest import Manifest
from shared.serving.answer import Result
from shared.serving.sessions.onnx import OnnxSession
from shared.serving.tasks.choose import task_for


class Served:
    """One variant of a bundle, loaded."""

    def __init__(self, manifest: Manifest, folder: Path, variant: str = "cpu-fp32") -> None:
        self._task = task_for(manifest, folder)
        self._session = OnnxSession(folder / manifest.variant(variant).files[0], threads=2)
        self._session.load()

    def answers(self, texts: Sequence[str], *, rows: int = 1) -> list[Result]:
        """One result per text, `rows` of them in a batch."""
        found: list[Result] = []
        for start in range(0, len(texts), rows):
            batch = [self._task.prepare(text, {"truncate": True}) for text in texts[start : start + rows]]
            *_, last = self._task.steps(self._run, batch)
            found.extend(last)
        return found

    def ids(self, text: str) -> list[int]:
        """The token ids the program is fed for one text."""
        return list(self._task.prepare(text, {"truncate": True}).data.ids)

    def _run(self, feeds):
        wanted = {spec.name for spec in self._session.inputs}
        return self._session.run({name: value for name, value in feeds.items() if name in wanted})
