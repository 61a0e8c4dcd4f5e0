"""A tuning run as its parent sees it: a process measures, this one listens, keeps what was said, and blames what it dies of.

Cancelling ends the process at once, in the middle of a measurement; what was said until then is kept, and a later run goes on
from there. A way the process died in, or fell silent in, is out, and another process goes on with the rest.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from shared.protocol.errors import Corrupt
from shared.protocol.reported import Isolation
from shared.serving.decide.tuning import Finish, Left, Measure, Probe, Progress, Why, advanced, answers, next_move
from shared.serving.trial.process import ENVIRONMENT, Heard, hear
from shared.serving.trial.run import death_of
from shared.serving.tuning.wire import Line, Ready, TuneRequest, Unfit

PROGRAM = (sys.executable, "-P", "-m", "shared.serving.tuning.child")
MOST_DEATHS = 6
"""Processes a version may kill: one that kills every one is not worth more."""


class _Listener:
    """Owner of what was said, and of what may be said next."""

    def __init__(self, request: TuneRequest, keep: Callable[[Progress], None]) -> None:
        self.progress = request.progress
        self.isolation: Isolation | None = None
        self.ready = False
        self.unfit: Unfit | None = None
        self._space = request.space
        self._keep = keep
        self._lost = False

    def hear(self, line: bytes) -> None:
        """One line. What is not an answer to what is being measured is not believed, nor is anything after it."""
        if self._lost:
            return
        try:
            if self.isolation is None:
                self.isolation = msgspec.json.decode(line, type=Isolation)
                return
            said = msgspec.json.decode(line, type=Line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._lost = True
            return
        match said:
            case Ready():
                self.ready = True
            case Unfit():
                self.unfit = said
            case _:
                if answers(said, next_move(self._space, self.progress)):
                    self.took(said)
                else:
                    self._lost = True

    def took(self, said: Left | Line) -> None:
        """Keep what is known now."""
        if not isinstance(said, Ready | Unfit):
            self.progress = advanced(self.progress, said)
            self._keep(self.progress)


async def tune(
    request: TuneRequest, *, keep: Callable[[Progress], None] = lambda _: None, program: Sequence[str] = PROGRAM
) -> tuple[Progress, Finish]:
    """Measure to the end; what was found, and everything it follows from.

    Args:
        request: what to measure, and what is known already.
        keep: called with all that is known, whenever that is more.
        program: the process that measures.

    Raises:
        Corrupt: the version cannot be measured in any way.
        Transient: no process can be started here and now.

    """
    for _ in range(MOST_DEATHS):
        move = next_move(request.space, request.progress)
        if isinstance(move, Finish):
            return request.progress, move
        listener = _Listener(request, keep)
        heard = await hear(
            program,
            msgspec.json.encode(_absolute(request)),
            seconds=request.limits.seconds,
            line=listener.hear,
            environment={**ENVIRONMENT, "MALLOC_ARENA_MAX": str(request.space.cores + 1)},
        )
        if listener.unfit is not None:
            raise Corrupt(listener.unfit.message, code=listener.unfit.code)
        move = next_move(request.space, listener.progress)
        if not isinstance(move, Finish):
            listener.took(_blame(move, heard, listener, request))
        request = msgspec.structs.replace(request, progress=listener.progress)
    move = next_move(request.space, request.progress)
    return request.progress, move if isinstance(move, Finish) else Finish(way=None, reason=Why.ALL_OUT)


def _blame(move: Probe | Measure, heard: Heard, listener: _Listener, request: TuneRequest) -> Left:
    """What the process was doing when it ended is what ended it.

    Raises:
        Corrupt: it ended before it did anything with any way.

    """
    if heard.late:
        return Left(way=move.way, code="too-slow", detail=f"no result in {request.limits.seconds:g} s")
    died = death_of(heard, listener.isolation or Isolation.NONE, request.limits)
    if not listener.ready:
        raise Corrupt(died.message, code=died.code)
    return Left(way=move.way, code=died.code, detail=died.message)


def _absolute(request: TuneRequest) -> TuneRequest:
    # The process starts in another folder than this one.
    folders = {variant: str(Path(folder).absolute()) for variant, folder in request.folders.items()}
    return msgspec.structs.replace(request, folders=folders)
