"""Whether a tensor program computes each row for itself, so that rows of several requests may be computed together.

Its shapes do not say: a mean over the rows, or one scale for all of them, has the same shapes as a program without. So rows are
computed alone and together, and compared: made-up ones, and those of the golden set.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from shared.bundle.manifest import Manifest, TensorSpec
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Corrupt, Refused
from shared.serving.answer import Array, Result, Tensors
from shared.serving.catalog import Listed
from shared.serving.sessions.datatypes import BF16, HELD, from_bf16, to_bf16
from shared.serving.tasks.task import Task
from shared.serving.tasks.tensor import TensorTask
from shared.serving.versions.golden import item_of, read_golden

TOLERANCE = 1e-4
"""Of an output's largest number: products over more rows are summed in another order."""
COARSE = 1e-2
"""The same for outputs of 16 bits, which have no finer steps."""
GUESSES = (8, 64, 224, 1)
"""Sizes that are tried for what varies beside the rows: where all are 1 little can be mixed, and most is hidden."""
ROWS, MOST = 2, 16
"""Requests that are put together, and items of the golden set that are looked at."""
SLOW_S = 0.5
"""What one row may take: of one that takes longer nothing is gained by computing it with another, and loading would take three more."""
_SEED = 11

Feeds = Mapping[str, Array]
Compute = Callable[[Sequence[object]], Awaitable[Sequence[Result]]]
"""Results of items, one each."""


async def stacked(
    task: Task, compute: Compute, listed: Listed, manifest: Manifest, folder: Path, *, log: Log, clock: Clock
) -> Task:
    """`task` as it computes requests together; as it is, and a line in the log, where the program mixes their rows.

    Args:
        task: of any kind; only that of tensors is changed.
        compute: runs items as requests are run.
        listed: with the program's inputs and outputs.
        manifest: of the version.
        folder: of its bundle.
        log: of the version.
        clock: for how long a row takes.

    """
    if not isinstance(task, TensorTask):
        return task

    async def run(feeds: Feeds) -> Feeds:
        began = clock.monotonic()
        (result,) = await compute((feeds,))
        if clock.monotonic() - began > SLOW_S:
            raise _SlowError
        return result.outputs if isinstance(result, Tensors) else {}

    golden = await asyncio.to_thread(read_golden, manifest, folder)
    items = [item_of(item, manifest) for item in golden.items[:MOST]]
    known = [item for item in items if isinstance(item, Mapping)]
    try:
        why = await mixing(run, listed.inputs, listed.outputs, known)
    except _SlowError:
        why = f"a row takes more than {SLOW_S} s"
    if not why:
        return task.stacking()
    log.info("requests are not computed together", why=why)
    return task


class _SlowError(Exception):
    """Trying would take longer than it is worth."""


async def mixing(
    run: Callable[[Feeds], Awaitable[Feeds]],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    known: Sequence[Feeds],
) -> str:
    """Why rows of two requests may not be computed together; empty where they may.

    Args:
        run: computes the arrays of one request.
        inputs: of the program.
        outputs: of the program.
        known: arrays it takes, from the golden set.

    """
    fixed = [spec.name for spec in (*inputs, *outputs) if not spec.shape or spec.shape[0] != -1]
    if fixed or not inputs or not outputs:
        return f"the first dimension of {', '.join(fixed) or 'its outputs'} is not one that varies"
    tried = False
    for items in _alike(known):
        if (found := await _mixed(run, items)) is not None:
            if found:
                return found
            tried = True
    for items in _made_up(inputs):
        # One that it takes is enough; others may be longer than anything it is made for.
        if (found := await _mixed(run, items)) is not None:
            return found
    return "" if tried else "no two inputs it takes are known, nor could they be made up"


async def _mixed(run: Callable[[Feeds], Awaitable[Feeds]], items: Sequence[Feeds]) -> str | None:
    """How rows change one another; empty where they do not, None where these items show nothing."""
    try:
        alone = [await run(item) for item in items]
    except (Refused, Corrupt):
        # The golden set was replayed before this; what was made up may be nothing the program takes.
        return None
    if not all(_says_something(array) for outputs in alone for array in outputs.values()):
        return None
    try:
        together = await run({name: np.concatenate([item[name] for item in items]) for name in items[0]})
    except (Refused, Corrupt) as error:
        return f"it takes rows alone and not together: {error.message}"
    return _difference(items, alone, together)


def _alike(known: Sequence[Feeds]) -> Iterator[list[Feeds]]:
    """Inputs that agree in all but their rows, `ROWS` of them at a time."""
    by_shape: dict[tuple[tuple[int, ...], ...], list[Feeds]] = {}
    for item in known:
        if len({array.shape[:1] for array in item.values()}) == 1:
            by_shape.setdefault(tuple(item[name].shape[1:] for name in sorted(item)), []).append(item)
    for group in by_shape.values():
        if len(group) > 1:
            yield group[:ROWS]


def _made_up(inputs: Sequence[TensorSpec]) -> Iterator[list[Feeds]]:
    varies = any(-1 in spec.shape[1:] for spec in inputs)
    draw = np.random.default_rng(_SEED)
    for guess in GUESSES if varies else GUESSES[:1]:
        yield [
            {
                spec.name: _drawn(
                    draw, spec.datatype, (1, *(guess if size < 0 else size for size in spec.shape[1:])), row + 1
                )
                for spec in inputs
            }
            for row in range(ROWS)
        ]


def _drawn(draw: np.random.Generator, datatype: str, shape: tuple[int, ...], scale: int) -> Array:
    """Numbers above 0, of another size in each row, and whole ones that are 0 or 1: in the domain of almost anything."""
    found: Array
    if datatype.startswith("FP"):
        found = (draw.uniform(0.1, 1.0, shape) * scale).astype(HELD[datatype])
    elif datatype == "BF16":
        found = to_bf16(draw.uniform(0.1, 1.0, shape) * scale)
    elif datatype == "BYTES":
        found = draw.integers(0, 2, shape).astype(str).astype(object)
    else:
        found = draw.integers(0, 2, shape).astype(HELD[datatype])
    return found


def _says_something(array: Array) -> bool:
    """Whether there is a number in it that could have become another one."""
    numbers = from_bf16(array) if array.dtype == BF16 else array
    return not np.issubdtype(numbers.dtype, np.floating) or bool(np.isfinite(numbers).any())


def _difference(items: Sequence[Feeds], alone: Sequence[Feeds], together: Feeds) -> str:
    rows = [len(next(iter(item.values()))) for item in items]
    for name, stacked in together.items():
        values = [outputs[name] for outputs in alone]
        if [len(each) if each.ndim else 0 for each in values] != rows or len(stacked) != sum(rows):
            return f"output {name} has other rows than the inputs"
        if any(each.shape[1:] != stacked.shape[1:] for each in values):
            return f"output {name} has another shape when rows are computed together"
        if (worst := _apart(np.concatenate(values), stacked)) > 0:
            return f"output {name} differs by {worst:.2e} of its largest number when rows are computed together"
    return ""


def _apart(alone: Array, together: Array) -> float:
    """How far two arrays are apart, of the largest number in them; 0 where that is within the tolerance."""
    if alone.dtype == BF16:
        alone, together, allowed = from_bf16(alone), from_bf16(together), COARSE
    else:
        allowed = COARSE if alone.dtype == np.float16 else TOLERANCE
    if not np.issubdtype(alone.dtype, np.floating):
        return 0.0 if np.array_equal(alone, together) else 1.0
    same = (alone == together) | (np.isnan(alone) & np.isnan(together))
    if same.all():
        return 0.0
    apart = np.abs(np.where(same, 0, alone.astype(np.float64) - together.astype(np.float64)))
    largest = float(np.abs(alone[np.isfinite(alone)]).max(initial=0.0)) or 1.0
    worst = float(apart.max()) / largest
    # Infinite or no number on one side only compares with nothing, and is a difference.
    return 0.0 if worst <= allowed else (worst if np.isfinite(worst) else 1.0)
