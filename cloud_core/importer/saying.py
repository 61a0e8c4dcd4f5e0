"""The importer's end of the wire: one JSON line per thing said, on a stdout that no library can write to."""

import os
from collections.abc import Callable

import msgspec

from cloud_core.importer.request import Progressed, Said

Say = Callable[[str, float, str], None]
"""`say(step, done, detail)`: a step began or went on; `done` of all work, 0 to 1."""


class Wire:
    """Keeps the real stdout to itself: from its making on, whatever else writes to stdout goes to stderr."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.set_inheritable(self._out, False)
        os.dup2(2, 1)

    def write(self, said: Said) -> None:
        """One line; whole or not at all, so that a reader never takes half of one for the end."""
        line = msgspec.json.encode(said) + b"\n"
        while line:
            line = line[os.write(self._out, line) :]

    def say(self, step: str, done: float, detail: str = "") -> None:
        """A step began or went on."""
        self.write(Progressed(step=step, done=min(max(done, 0.0), 1.0), detail=detail))


def silent(step: str, done: float, detail: str) -> None:
    """For steps nobody waits for."""


def within(say: Say, begin: float, end: float) -> Say:
    """`say` for a part of the work: its own 0 to 1 is `begin` to `end` of the whole."""

    def part(step: str, done: float, detail: str) -> None:
        say(step, begin + (end - begin) * done, detail)

    return part
