"""The ways a version can be run on a machine, as far as they are worth measuring, in the order of preference. Pure.

Where measurements do not tell two ways apart, the first is chosen. So fewer cores come before more, the variant the device prefers
before others, ONNX Runtime before what has to be installed, the engine's own bounds of a batch before special ones.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import assert_never

import msgspec

from shared.serving.arrangement import ONNXRUNTIME, Arrangement
from shared.serving.decide.batching import Budget

FEW = 8
MANY = (64, 32, 16)
"""Requests at once on a busy device; fewer where so many take too long to be measured."""
MOST_BURST_S = 0.5
SLICE_S = 0.03
REPEATS = 8
"""Requests that come alone are measured this often in a round, as far as they take `SLICE_S` together."""
ROWS = (8, 16, 64)
TOKENS_A_ROW = 128
"""As in the engine's own bounds."""


class Stage(StrEnum):
    """What is being chosen."""

    PROGRAM = "program"
    SHARE = "share"
    BATCH = "batch"


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A way to run a version: a variant, and how it is run."""

    variant: str
    arrangement: Arrangement = Arrangement()


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A variant, what runs it, and what that computes in where it can choose."""

    variant: str
    runtime: str = ONNXRUNTIME
    precision: str = ""


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """What may be chosen from; `programs` in the order of preference.

    `lanes` and `threads` are set where somebody fixed them. `spinning` may only be tried on a device that has nothing else to do.
    `batched`: whether requests of this model can share a batch. `seconds` is how long the run may take.
    """

    programs: tuple[Program, ...]
    cores: int = 1
    lanes: int | None = None
    threads: int | None = None
    spinning: bool = False
    batched: bool = True
    seconds: float = 20.0

    @property
    def variants(self) -> frozenset[str]:
        """Names of the variants in it."""
        return frozenset(program.variant for program in self.programs)


def bursts_of(alone: float) -> tuple[int, ...]:
    """How many requests at once are measured, where one takes `alone` seconds."""
    few = (FEW,) if FEW * alone <= MOST_BURST_S else ()
    many = next(((n,) for n in MANY if n * alone <= MOST_BURST_S), ())
    return (1, *few, *many)


def repeats_of(alone: float, n: int) -> int:
    """How often a burst of `n` requests is measured in a round; the same for every way, so that all answer the same requests."""
    return max(1, min(-(-REPEATS // n), int(SLICE_S / (n * alone))))


def varied(n: int, round: int) -> int:
    """How many requests a burst of about `n` has in a round: traffic does not come in even numbers either."""
    return n - round * 3 % (n // 4 + 1)


def ways_of(space: Space, stage: Stage, chosen: Way | None, bursts: Sequence[int]) -> tuple[Way, ...]:
    """The ways a stage compares, in the order of preference; all but the first stage on what was `chosen` before."""
    match stage:
        case Stage.PROGRAM:
            start = first_share(space)
            return tuple(
                Way(
                    variant=each.variant,
                    arrangement=msgspec.structs.replace(start, runtime=each.runtime, precision=each.precision),
                )
                for each in space.programs
            )
        case _ if chosen is None:
            return ()
        case Stage.SHARE:
            found = [
                msgspec.structs.replace(chosen.arrangement, lanes=lanes, threads=threads, spinning=spinning)
                for spinning in ((False, True) if space.spinning else (False,))
                for lanes, threads in shares(space)
                if not spinning or threads > 1
            ]
        case Stage.BATCH:
            found = [
                msgspec.structs.replace(
                    chosen.arrangement, rows=rows, tokens=None if rows is None else rows * TOKENS_A_ROW
                )
                for rows in bounds(max(bursts, default=1), chosen.arrangement.lanes if space.batched else None)
            ]
        case _:
            assert_never(stage)
    return tuple(Way(variant=chosen.variant, arrangement=each) for each in found)


def shares(space: Space) -> tuple[tuple[int, int], ...]:
    """Lanes and threads that may be tried, by cores used, then by threads: as few cores as possible, or at least half of all."""
    counts = sorted({*(1 << n for n in range(space.cores.bit_length()) if 1 << n <= space.cores), space.cores})
    threads = counts if space.threads is None else [space.threads]
    lanes = counts if space.lanes is None else [space.lanes]
    # Where both are odd, all cores may be reachable only by a number in between.
    pairs = {(a, b) for b in threads for a in ({*lanes, max(1, space.cores // b)} if space.lanes is None else lanes)}
    least = min(a * b for a, b in pairs)
    fit = {(a, b) for a, b in pairs if a * b <= space.cores and (a * b == least or 2 * a * b >= space.cores)}
    # What somebody fixed may be more than there is, or leave only one way.
    fit = fit or {(space.lanes or 1, space.threads or 1)}
    return tuple(sorted(fit, key=lambda pair: (pair[0] * pair[1], pair[1])))


def bounds(most: int, lanes: int | None) -> tuple[int | None, ...]:
    """Rows of a batch that may be tried where at the most `most` requests are shared by `lanes`; first the engine's own, None.

    Only what makes a difference there: lanes share a burst evenly, and a bound above that share is none. `lanes` None: there are
    no batches.
    """
    if lanes is None:
        return (None,)
    share = -(-most // lanes)
    found: dict[int, int | None] = {min(share, Budget().rows): None}
    for rows in ROWS:
        found.setdefault(min(share, rows), rows)
    return tuple(found.values())


def first_share(space: Space) -> Arrangement:
    """Lanes and threads while programs are compared: as many lanes as there are cores for."""
    threads = space.threads or 1
    return Arrangement(lanes=space.lanes or max(1, space.cores // threads), threads=threads)
