"""Measuring a version from its first way to its last, in the process that may die: decide, do, say."""

import time
from collections.abc import Callable
from pathlib import Path

from shared.bundle.manifest import MANIFEST_FILE, MAX_BYTES, Manifest, parse_manifest
from shared.protocol.errors import TidelineError
from shared.serving.decide.tuning import Alone, Finish, Left, Measure, Probe, Said, Sample, advanced, next_move
from shared.serving.trial.replay import GoldenDiffersError, out_of_memory
from shared.serving.tuning.stand import Stand
from shared.serving.tuning.wire import Line, Ready, TuneRequest, Unfit

LONGEST = 500
"""Characters of an explanation."""


def measure(request: TuneRequest, *, memory_bytes: int, say: Callable[[Line], None]) -> None:
    """Go on from `request.progress` until there is nothing left to be measured; every result is said at once."""
    folders = {name: Path(folder) for name, folder in request.folders.items()}
    try:
        stand = Stand(_manifest_of(request, folders), folders, memory_bytes=memory_bytes)
    except TidelineError as error:
        say(Unfit(code=error.code, message=error.message[:LONGEST]))
        return
    say(Ready())
    progress = request.progress
    while not isinstance(move := next_move(request.space, progress), Finish):
        said = _done(stand, move, folders)
        say(said)
        progress = advanced(progress, said)


def _done(stand: Stand, move: Probe | Measure, folders: dict[str, Path]) -> Said:
    began = time.perf_counter()

    def left(code: str, detail: str) -> Left:
        for folder in folders.values():
            detail = detail.replace(f"{folder}/", "")
        return Left(way=move.way, code=code, detail=detail[:LONGEST], took=time.perf_counter() - began)

    try:
        match move:
            case Probe(way=way):
                seconds = stand.alone(way)
                return Alone(way=way, seconds=seconds, took=time.perf_counter() - began)
            case Measure(stage=stage, way=way):
                each = stand.round(way, move.bursts, move.repeats, number=move.round)
                return Sample(stage=stage, way=way, seconds=each, took=time.perf_counter() - began)
    except GoldenDiffersError as error:
        return left("golden-differs", "; ".join(error.differences[:3]))
    except MemoryError:
        return left("too-large", "it needs more memory than there is for it")
    except TidelineError as error:
        return left("too-large" if out_of_memory(error.message) else error.code, error.message)
    except Exception as error:
        # Nothing a model does is a bug of the process that measures it.
        return left("crashed", f"{type(error).__name__}: {error}")


def _manifest_of(request: TuneRequest, folders: dict[str, Path]) -> Manifest:
    if request.manifest is not None:
        return parse_manifest(request.manifest.encode())
    with (next(iter(folders.values())) / MANIFEST_FILE).open("rb") as file:
        return parse_manifest(file.read(MAX_BYTES + 1))
