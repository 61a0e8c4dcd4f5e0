"""What a tuning run measures next, and what it finds. Pure: everything follows from what was said so far.

A run goes through three stages, each on what the one before it chose: which program (variant, runtime, precision), which share of the cores
(lanes and threads), which bounds of a batch. Within a stage all ways are measured once before any is measured again, there and
back; after 1, 3 and 6 rounds those that cannot win any more are left out (successive halving). Because nothing but what was said is
looked at, a run that was interrupted goes on where it was.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import assert_never

import msgspec

from shared.serving.decide.scoring import preferred, score, survivors
from shared.serving.decide.ways import Space, Stage, Way, bursts_of, repeats_of, ways_of

RUNGS = (1, 3, 6)
"""Rounds after which ways are left out."""
ROUNDS = 9
UNTIL = {Stage.PROGRAM: 0.5, Stage.SHARE: 0.85, Stage.BATCH: 1.0}
"""The share of the time by which a stage is over."""


class Alone(msgspec.Struct, frozen=True, kw_only=True, tag="alone"):
    """One request took so many seconds: what the sizes of the bursts follow from; `took` is how long it took to find out."""

    way: Way
    seconds: float
    took: float = 0.0


class Sample(msgspec.Struct, frozen=True, kw_only=True, tag="sample"):
    """One round of one way: seconds of each burst, and how long it took to find out, in seconds."""

    stage: Stage
    way: Way
    seconds: tuple[float, ...]
    took: float = 0.0


class Left(msgspec.Struct, frozen=True, kw_only=True, tag="out"):
    """A way that is out, and why: `code` is a trial's, such as `golden-differs`, `crashed` or `too-slow`."""

    way: Way
    code: str
    detail: str = ""
    took: float = 0.0


Said = Alone | Sample | Left


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was said, in order."""

    alone: Alone | None = None
    samples: tuple[Sample, ...] = ()
    out: tuple[Left, ...] = ()

    @property
    def spent(self) -> float:
        """Seconds measured so far."""
        alone = self.alone.took if self.alone is not None else 0.0
        return alone + sum(each.took for each in self.samples) + sum(each.took for each in self.out)

    @property
    def bursts(self) -> tuple[int, ...]:
        """How many requests at once are measured; empty as long as it is not known how long one takes."""
        return bursts_of(self.alone.seconds) if self.alone is not None else ()


class Why(StrEnum):
    """Why a run is over."""

    MEASURED = "measured"
    NOTHING_FITS = "nothing-fits"
    ALL_OUT = "all-out"
    OUT_OF_TIME = "out-of-time"


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """Find out how long one request takes."""

    way: Way


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """Measure round number `round` of `way`: so many requests at once, each burst `repeats` times, one after the other."""

    stage: Stage
    way: Way
    bursts: tuple[int, ...]
    repeats: tuple[int, ...]
    round: int = 0


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """The run is over; `way` None where there is nothing to be recommended."""

    way: Way | None
    reason: Why


Move = Probe | Measure | Finish


def next_move(space: Space, progress: Progress) -> Move:
    """What to do next."""
    if not space.programs:
        return Finish(way=None, reason=Why.NOTHING_FITS)
    chosen: Way | None = None
    for stage in Stage:
        ways = [way for way in ways_of(space, stage, chosen, progress.bursts) if not _is_out(way, progress)]
        if chosen is None and not ways:
            return Finish(way=None, reason=Why.ALL_OUT)
        if chosen is not None and len(ways) < 2:
            continue
        if progress.alone is None:
            if progress.spent >= space.seconds:
                return Finish(way=None, reason=Why.OUT_OF_TIME)
            return Probe(way=ways[0])
        found = _stage(stage, ways, space, progress)
        if isinstance(found, Measure):
            return found
        chosen = found or chosen
        if chosen is None:
            return Finish(way=None, reason=Why.OUT_OF_TIME)
    return Finish(way=chosen, reason=Why.MEASURED)


def advanced(progress: Progress, said: Said) -> Progress:
    """What is known once `said` was said."""
    match said:
        case Alone():
            return msgspec.structs.replace(progress, alone=said)
        case Sample():
            return msgspec.structs.replace(progress, samples=(*progress.samples, said))
        case Left():
            return msgspec.structs.replace(progress, out=(*progress.out, said))
        case _:
            assert_never(said)


def answers(said: Said, move: Move) -> bool:
    """Whether `said` is what `move` asked for: what a process says that runs strangers' programs is not believed unseen."""
    if isinstance(move, Finish) or said.way != move.way:
        return False
    if not 0.0 <= said.took < math.inf:
        return False
    match said:
        case Alone(seconds=seconds):
            return isinstance(move, Probe) and 0.0 < seconds < math.inf
        case Sample(stage=stage, seconds=each):
            asked = isinstance(move, Measure) and stage is move.stage and len(each) == len(move.bursts)
            return asked and all(0.0 < one < math.inf for one in each)
        case Left():
            return True
        case _:
            assert_never(said)


def _stage(stage: Stage, ways: Sequence[Way], space: Space, progress: Progress) -> Measure | Way | None:
    """What a stage measures next, or what it chose; None where it ran out of time before its first measurement."""
    rounds = {
        way: [score(each.seconds) for each in progress.samples if (each.stage, each.way) == (stage, way)]
        for way in ways
    }
    alive = _alive(ways, rounds)
    if progress.spent >= UNTIL[stage] * space.seconds:
        measured = [way for way in alive if rounds[way]]
        return measured[preferred([rounds[way] for way in measured])] if measured else None
    done = min(len(rounds[way]) for way in alive)
    if done >= ROUNDS or (done >= 1 and len(alive) == 1):
        return alive[preferred([rounds[way] for way in alive])]
    # There and back again: what grows slowly, such as a processor's temperature, favours neither end.
    order = alive if done % 2 == 0 else alive[::-1]
    way = next(way for way in order if len(rounds[way]) == done)
    alone = progress.alone.seconds if progress.alone is not None else math.inf
    repeats = tuple(repeats_of(alone, n) for n in progress.bursts)
    return Measure(stage=stage, way=way, bursts=progress.bursts, repeats=repeats, round=done)


def _alive(ways: Sequence[Way], rounds: dict[Way, list[float]]) -> list[Way]:
    alive = list(ways)
    for rung in RUNGS:
        if len(alive) == 1 or any(len(rounds[way]) < rung for way in alive):
            break
        alive = [alive[i] for i in survivors([rounds[way][:rung] for way in alive])]
    return alive


def _is_out(way: Way, progress: Progress) -> bool:
    return any(each.way == way for each in progress.out)
