"""A session that plays a script: tests of everything around a session run on it."""

import threading
from collections.abc import Callable
from typing import Self

from shared.bundle.manifest import TensorSpec
from shared.protocol.errors import Transient, Unavailable
from shared.serving.sessions.session import Feeds, Outputs

Script = Callable[[Feeds], Outputs]


class ScriptedSession:
    """Gives what `script` returns for each run.

    `gate`: every run waits for it first; `started` is set when a run begins. `failing` is raised by `load`; a script that
    raises makes the run raise. `runs` keeps the feeds of every run.
    """

    def __init__(
        self,
        script: Script,
        *,
        inputs: tuple[TensorSpec, ...] = (),
        outputs: tuple[TensorSpec, ...] = (),
        gate: threading.Event | None = None,
        failing: Exception | None = None,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.started = threading.Event()
        self.runs: list[Feeds] = []
        self.closed = False
        self._script = script
        self._gate = gate
        self._failing = failing
        self._interrupted = False

    def load(self) -> None:
        """Succeed, or raise what was asked for."""
        if self._failing is not None:
            raise self._failing

    def run(self, feeds: Feeds) -> Outputs:
        """The script's outputs."""
        self.runs.append(feeds)
        self.started.set()
        if self._gate is not None:
            self._gate.wait()
        if self._interrupted:
            raise Transient("the computation was ended", why=Unavailable.CANCELLED)
        return self._script(feeds)

    def sibling(self) -> Self:
        """Itself: a script knows no lanes."""
        return self

    def interrupt(self) -> None:
        """End a run in progress."""
        self._interrupted = True
        if self._gate is not None:
            self._gate.set()

    def resume(self) -> None:
        """Run again; a gate that an interruption opened stays open."""
        self._interrupted = False

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True
