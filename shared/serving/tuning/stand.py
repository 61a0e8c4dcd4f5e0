"""The test stand: runs a version in one way after another and takes the time. Lives in the process that may die.

Sessions stay open from one round to the next, as many as there is memory for: what is measured is running, never loading. Every program
(variant, runtime, precision) replays the golden set before it is measured. Requests are those of the golden set, of all its
lengths, in another order and number each round, and the engine's own rule forms their batches: a runtime that prepares itself for
every shape it has not seen pays for that here as it does in service. All ways answer the same requests in the same round.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from shared.bundle.manifest import Manifest, TaskKind, Variant
from shared.protocol.errors import Corrupt
from shared.serving.arrangement import ONNXRUNTIME, Arrangement
from shared.serving.decide.batching import Budget, Waiting, bounded, next_batch
from shared.serving.decide.ways import REPEATS, Way, varied
from shared.serving.sessions.open import open_session
from shared.serving.sessions.session import Session
from shared.serving.tasks.choose import task_for
from shared.serving.tasks.rounded import rounded
from shared.serving.tasks.task import Prepared, Task
from shared.serving.trial.contents import check_contents
from shared.serving.trial.model import Model
from shared.serving.trial.replay import made_up, rehearsed

MOST_OPEN = 8
MOST_LANES = 1024
MOST_ITEMS = 64
"""Requests that are drawn from."""
_WRITTEN = 16
"""Tokens a generator writes."""
_TEXT = "好" * 30
"""What is asked where there is no golden set."""


class _Opened(NamedTuple):
    """A loaded program: its session, one model per lane, and the memory it is thought to need."""

    session: Session
    models: list[Model]
    need: int


class Stand:
    """Owner of the open sessions; one thread uses it."""

    def __init__(
        self,
        manifest: Manifest,
        folders: Mapping[str, Path],
        *,
        memory_bytes: int,
        sessions: Callable[[Path, Variant, Arrangement], Session] = open_session,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`folders` by variant; `memory_bytes` is what all open sessions together may be thought to need."""
        self._manifest = manifest
        self._folders = folders
        self._room = memory_bytes
        self._sessions = sessions
        self._clock = clock
        self._task = task_for(manifest, next(iter(folders.values())))
        self._open: dict[tuple[str, Arrangement], _Opened] = {}
        self._sound: set[tuple[str, str, str]] = set()
        self._warm: dict[Model, int] = {}
        """The largest batch each model has computed."""
        self._items: list[Prepared] = []
        self._lanes = ThreadPoolExecutor(MOST_LANES, thread_name_prefix="lane")

    def alone(self, way: Way) -> float:
        """Seconds one request takes.

        Raises:
            GoldenDiffersError, TidelineError: the way cannot be used.

        """
        return self.round(way, (1,), (REPEATS,), number=0)[0]

    def round(self, way: Way, bursts: Sequence[int], repeats: Sequence[int], *, number: int) -> tuple[float, ...]:
        """Seconds in which each burst, so many requests at once, is answered in round `number`; raises as `alone`."""
        models = self._opened(way)
        if not self._items:
            raise Corrupt("there is nothing to ask it", code="does-not-run")
        sizes = [varied(n, number) for n in bursts]
        drawn = [
            [self._batches(size, number + k, way.arrangement) for k in range(often)]
            for size, often in zip(sizes, repeats, strict=True)
        ]
        largest = max((batch for each in drawn[-1] for batch in each), key=len)
        for model in models:
            if self._warm.get(model, 0) < len(largest):
                # The first run allocates, and so does the first large one.
                model.computed(largest)
                self._warm[model] = len(largest)
        return tuple(self._seconds(models, each) * n / size for n, size, each in zip(bursts, sizes, drawn, strict=True))

    def _seconds(self, models: Sequence[Model], repetitions: Sequence[Sequence[Sequence[Prepared]]]) -> float:
        """The mean over some bursts that differ."""
        began = self._clock()
        for batches in repetitions:
            self._compute(models, batches)
        return (self._clock() - began) / len(repetitions)

    def _batches(self, n: int, number: int, arrangement: Arrangement) -> list[list[Prepared]]:
        """What is computed together where `n` requests come at once, by the engine's own rule."""
        drawn = [self._items[(number * n + k) % len(self._items)] for k in range(n)]
        waiting = {
            k: Waiting(id=k, tokens=item.tokens, rows=item.rows, group=item.group) for k, item in enumerate(drawn)
        }
        task, rows, tokens = self._manifest.task, arrangement.rows, arrangement.tokens
        alone, generates = task is TaskKind.TENSOR, task is TaskKind.TEXT_GENERATION
        bounds = bounded(Budget(), rows=rows, tokens=tokens, alone=alone, generates=generates)
        batches: list[list[Prepared]] = []
        while waiting:
            # At first all lanes are free, then one at a time.
            idle = max(1, arrangement.lanes - len(batches))
            ids = next_batch(tuple(waiting.values()), bounds, now=0.0, idle=idle).ids
            batches.append([drawn[k] for k in ids])
            for k in ids:
                del waiting[k]
        return batches

    def _compute(self, models: Sequence[Model], batches: Sequence[Sequence[Prepared]]) -> None:
        if len(models) == 1 or len(batches) == 1:
            for batch in batches:
                models[0].computed(batch)
            return
        waiting = deque(batches)

        def lane(model: Model) -> None:
            while True:
                try:
                    batch = waiting.popleft()
                except IndexError:
                    return
                model.computed(batch)

        for running in [self._lanes.submit(lane, model) for model in models[: len(batches)]]:
            running.result()

    def _opened(self, way: Way) -> Sequence[Model]:
        """A model for each lane, over one loaded program."""
        arrangement = way.arrangement
        # ONNX Runtime's lanes share whatever was loaded; OpenVINO is told how many there will be.
        lanes = 1 if arrangement.runtime == ONNXRUNTIME else arrangement.lanes
        key = (way.variant, replace(arrangement, lanes=lanes, rows=None, tokens=None))
        # Put back at the end: what was used last is closed last.
        held = self._open.pop(key, None) or self._loaded(way)
        self._open[key] = held
        while len(held.models) < arrangement.lanes:
            held.models.append(Model(self._suited(arrangement), held.session.sibling()))
        return held.models[: arrangement.lanes]

    def _loaded(self, way: Way) -> _Opened:
        variant, folder = self._manifest.variant(way.variant), self._folders[way.variant]
        program = folder / variant.files[0]
        need = max(variant.requirements.memory_bytes, 2 * program.stat().st_size)
        while self._open and (
            len(self._open) >= MOST_OPEN or need + sum(each.need for each in self._open.values()) > self._room
        ):
            closed = self._open.pop(next(iter(self._open)))
            closed.session.close()
            for model in closed.models:
                self._warm.pop(model, None)
        kind = (variant.name, way.arrangement.runtime, way.arrangement.precision)
        if kind not in self._sound:
            check_contents(self._manifest, variant, folder)
        session = self._sessions(program, variant, way.arrangement)
        session.load()
        model = Model(self._suited(way.arrangement), session)
        if kind not in self._sound:
            items = rehearsed(model, self._manifest, variant.name, folder, precision=way.arrangement.precision)
            self._items = self._items or self._requests(model, items)
            self._sound.add(kind)
        return _Opened(session, [model], need)

    def _suited(self, arrangement: Arrangement) -> Task:
        return rounded(self._task, self._manifest, arrangement)

    def _requests(self, model: Model, items: Sequence[object]) -> list[Prepared]:
        """What is asked: the golden set's items, else something the program takes."""
        kind = self._manifest.task
        if not items:
            items = made_up(model, self._manifest.inputs)[0] if kind is TaskKind.TENSOR else [_TEXT]
        parameters = {"max_tokens": _WRITTEN} if kind is TaskKind.TEXT_GENERATION else {}
        return model.prepared(items[:MOST_ITEMS], parameters)
