"""One loaded model version: its task, session, queue and worker, and the states it goes through.

loading -> warming -> ready -> draining, or failed. Warming replays the bundle's golden set through the same queue that
requests use, so what was checked is what will answer.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

import msgspec

from shared.bundle.manifest import Manifest, TaskKind, Variant
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Corrupt, Refused, TidelineError
from shared.protocol.reported import ModelState
from shared.serving.answer import Array, Result, Where
from shared.serving.catalog import Listed
from shared.serving.decide import calibration
from shared.serving.decide.admission import Admitted, Ask
from shared.serving.decide.batching import Budget
from shared.serving.decide.calibration import Calibration
from shared.serving.decide.cost import Cost
from shared.serving.golden import item_of, read_golden
from shared.serving.metrics import EngineMetrics, Meter
from shared.serving.queue import BatchQueue, Entry, Permit, Sink
from shared.serving.rehearsal import ALONE, differences, warming
from shared.serving.sessions.session import Session
from shared.serving.sinks import Gathering
from shared.serving.tasks.task import Prepared, Task
from shared.serving.worker import Ran, Worker

INLINE = 256
"""Code points that are tokenized on the loop's thread: it takes about as long as handing them to another would."""

Item = str | Mapping[str, Array]


class LoadedModel:
    """Made and driven by the engine; loop's thread only."""

    def __init__(
        self,
        *,
        tenant: str,
        name: str,
        manifest: Manifest,
        digest: str,
        variant: str,
        session: Session,
        task: Task,
        budget: Budget,
        where: Where,
        clock: Clock,
        log: Log,
        metrics: EngineMetrics,
        pool: Executor,
    ) -> None:
        self.tenant = tenant
        self.name = name
        self.version = manifest.version
        self.manifest = manifest
        self.digest = digest
        self.variant = variant
        self.task = task
        self.state = ModelState.LOADING
        self.error = ""
        self.calibration = Calibration()
        self._clock = clock
        self._listed: Listed | None = None
        self._metrics = metrics
        self._pool = pool
        self._session = session
        if manifest.task is TaskKind.TENSOR:
            # Two requests' arrays need not have one shape: each runs alone.
            budget = msgspec.structs.replace(budget, rows=1)
        self.queue = BatchQueue(clock=clock, loop=asyncio.get_running_loop(), budget=budget)
        self.meter = Meter(metrics, name, self.version, where, depth=lambda: self.queue.depth)
        self._worker = Worker(
            f"{name}@{self.version}",
            session=session,
            task=task,
            queue=self.queue,
            clock=clock,
            log=log.bind(model=name, version=self.version, variant=variant),
            ran=self._ran,
        )
        self.enter(ModelState.LOADING)

    def took(self, predicted: float, began: float) -> None:
        """A request predicted to take `predicted` seconds that began at `began` ended now, answered or given up."""
        now = self._clock.monotonic()
        self.calibration = calibration.observed(self.calibration, predicted=predicted, seconds=now - began, now=now)

    @property
    def cost(self) -> Cost:
        """The fitted time of a batch."""
        return self._worker.cost

    def enter(self, state: ModelState, error: str = "") -> None:
        """Go to `state`."""
        self.state = state
        self.error = error
        self._metrics.is_in(self.name, self.version, state)

    async def start(self) -> None:
        """Load the session in its own thread.

        Raises:
            Corrupt: it cannot be loaded.

        """
        await self._worker.start()

    async def stop(self) -> bool:
        """Fail what waits, end what runs, free the session."""
        ended = await self._worker.stop()
        self._metrics.forget(self.name, self.version)
        return ended

    async def warm(self, folder: Path) -> None:
        """Run the model, short and long, then replay the golden set.

        Raises:
            Corrupt: an answer differs from what the bundle expects.

        """
        if self.manifest.task is not TaskKind.TENSOR:
            short, long = warming(self.manifest)
            await self._computed((short.text,), short.parameters)
            # The first run allocates and is no measure of those that follow; a short and the longest run fix the line.
            self._worker.cost = Cost()
            for text, parameters in (short, long):
                await self._computed((text,), parameters)
        differences = await self.check_golden(folder)
        if differences:
            raise Corrupt(f"the golden set differs: {'; '.join(differences[:3])}", code="golden-differs")

    async def check_golden(self, folder: Path) -> list[str]:
        """What differs from the golden set, alone and in a batch; empty where nothing does."""
        golden = await asyncio.to_thread(read_golden, self.manifest, folder)
        if not golden.items:
            return []
        items = [item_of(item, self.manifest) for item in golden.items]
        alone = [(await self._computed((item,)))[0] for item in items[:ALONE]]
        together = await self._computed(items)
        return differences(golden, self.variant, [*enumerate(alone), *enumerate(together)])

    async def measure(self, items: Sequence[Item], parameters: Mapping[str, object]) -> None:
        """Compute one batch's worth of `items` so that the fit learns what they take; nobody wants the results.

        More would teach no more, and would stand in the way of those who do want theirs.
        """
        await self._computed(items[: self.queue.budget.rows], parameters)

    async def prepare(self, items: Sequence[object], parameters: Mapping[str, object]) -> list[Prepared]:
        """Every item ready for a batch; off the loop's thread unless they are short.

        Raises:
            Refused: one item cannot be taken; names it as `texts[i]` among several.

        """
        if sum(len(item) if isinstance(item, str) else INLINE for item in items) <= INLINE:
            return self._prepare(items, parameters)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._prepare, items, parameters)

    def submit(
        self,
        permit: Permit,
        prepared: Sequence[Prepared],
        sink: Sink,
        *,
        priority: int = 0,
        deadline: float | None = None,
    ) -> None:
        """Queue every item under `permit`."""
        entries = [Entry(item, sink, index) for index, item in enumerate(prepared)]
        self.queue.submit(permit, entries, priority=priority, deadline=deadline)

    def listed(self, *, active: bool) -> Listed:
        """How faces see it; made anew only when something changed, since every request asks."""
        known = self._listed
        if known is None or (known.active, known.state) != (active, self.state):
            known = self._listed = self._list(active=active)
        return known

    def _list(self, *, active: bool) -> Listed:
        return Listed(
            tenant=self.tenant,
            name=self.name,
            version=self.version,
            task=self.manifest.task,
            state=self.state,
            variant=self.variant,
            digest=self.digest,
            active=active,
            reason=self.error or ("" if self.state is ModelState.READY else self.state.value),
            inputs=self.manifest.inputs or self._session.inputs,
            outputs=self.manifest.outputs or self._session.outputs,
            labels=self.manifest.labels,
            max_length=self.manifest.processing.max_length if self.manifest.task is not TaskKind.TENSOR else 0,
        )

    def _prepare(self, items: Sequence[object], parameters: Mapping[str, object]) -> list[Prepared]:
        found: list[Prepared] = []
        for i, item in enumerate(items):
            try:
                found.append(self.task.prepare(item, parameters))
            except Refused as error:
                if len(items) == 1 or error.field != "text":
                    raise
                raise error.renamed(f"texts[{i}]") from error
        return found

    def _ran(self, ran: Ran) -> None:
        if self.state is not ModelState.WARMING:
            # Metrics and statistics tell of requests; what warming computes nobody asked for.
            self.meter.ran(ran)

    async def _computed(
        self, items: Sequence[object], parameters: Mapping[str, object] | None = None
    ) -> tuple[Result, ...]:
        prepared = await self.prepare(items, {**(parameters or {}), "truncate": True})
        gathering = Gathering(len(items))
        tokens = sum(item.rows * item.tokens for item in prepared)
        with self.queue.reserve(Admitted(ask=Ask(entries=len(items), tokens=tokens), predicted=0.0)) as permit:
            self.submit(permit, prepared, gathering)
            return await gathering.future


Sessions = Callable[[Path, Variant, int], Session]
"""Opens the session of a program file, the variant it is of, and number of threads."""
Tasks = Callable[[Manifest, Path], Task]


def explained(error: BaseException) -> str:
    """Why loading failed, in one line."""
    return error.message if isinstance(error, TidelineError) else f"{type(error).__name__}: {error}"
