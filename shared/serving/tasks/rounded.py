"""Batches of few different lengths, for a runtime that prepares itself anew for every shape it meets.

Padding that is masked changes no answer: it is what a longer batch mate brings.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from shared.bundle.manifest import Manifest, TaskKind
from shared.serving.answer import Array, Result
from shared.serving.arrangement import OPENVINO, Arrangement
from shared.serving.sessions.session import Feeds, Outputs
from shared.serving.tasks.task import Prepared, Run, Task

ENCODERS = (TaskKind.TEXT_CLASSIFICATION, TaskKind.TOKEN_CLASSIFICATION, TaskKind.TEXT_EMBEDDING)
"""Tasks whose arrays are all [rows, longest], masked by `attention_mask`, and who know their own lengths in what comes back."""
STEP = 8
"""Tokens: a few more to compute for every text against preparing for an eighth of the lengths."""


class Rounded:
    """`task` with batches as long as a multiple of `STEP`, `most` tokens at most."""

    def __init__(self, task: Task, *, most: int) -> None:
        self.name = task.name
        self._task = task
        self._most = most

    def estimate(self, item: object, parameters: Mapping[str, object]) -> int:
        """As the task."""
        return self._task.estimate(item, parameters)

    def prepare(self, item: object, parameters: Mapping[str, object]) -> Prepared:
        """As the task."""
        return self._task.prepare(item, parameters)

    def steps(self, run: Run, batch: Sequence[Prepared]) -> Iterator[Sequence[Result | None]]:
        """As the task, its arrays padded before each run."""

        def padded(feeds: Feeds) -> Outputs:
            return run(self._padded(feeds))

        return self._task.steps(padded, batch)

    def _padded(self, feeds: Feeds) -> Feeds:
        rows, longest = feeds["attention_mask"].shape
        width = max(longest, min(-(-longest // STEP) * STEP, self._most))
        return feeds if width == longest else {name: _wider(array, rows, width) for name, array in feeds.items()}


def _wider(array: Array, rows: int, width: int) -> Array:
    # Zero is nobody's mask and somebody's token: which one does not matter to who does not look at it.
    wide: Array = np.zeros((rows, width), dtype=array.dtype)
    wide[:, : array.shape[1]] = array
    return wide


def rounded(task: Task, manifest: Manifest, arrangement: Arrangement) -> Task:
    """`task` as it suits what runs its program."""
    if arrangement.runtime != OPENVINO or manifest.task not in ENCODERS:
        return task
    return Rounded(task, most=manifest.processing.max_length)
