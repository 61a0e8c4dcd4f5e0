"""One loaded model version: its task, session, queue and worker, and the states it goes through.

loading -> warming -> ready -> draining, or failed. Warming replays the bundle's golden set through the same queue that
requests use, so what was checked is what will answer.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from shared.bundle.manifest import Manifest, TaskKind
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Corrupt, Refused, Transient, Unavailable
from shared.protocol.reported import ModelState
from shared.serving.admission.limiter import Limiter
from shared.serving.answer import Array, Result, Timing, Where
from shared.serving.arrangement import Arrangement
from shared.serving.catalog import Listed
from shared.serving.decide.admission import Admitted, Ask
from shared.serving.decide.batching import Budget, bounded, worth
from shared.serving.decide.cost import Cost, observed
from shared.serving.decide.footprint import described
from shared.serving.decide.residency import Key
from shared.serving.lanes.cores import Cores
from shared.serving.lanes.entry import Entry, Sink
from shared.serving.lanes.lanes import Lanes
from shared.serving.lanes.queue import BatchQueue, Permit
from shared.serving.lanes.sinks import Gathering
from shared.serving.lanes.worker import Ran
from shared.serving.memory.residence import Residence
from shared.serving.metrics import EngineMetrics, Meter
from shared.serving.sessions.session import Session
from shared.serving.tasks.task import Prepared, Task
from shared.serving.tasks.tensor import TensorTask
from shared.serving.versions.golden import item_of, read_golden
from shared.serving.versions.program import Program
from shared.serving.versions.program_files import ProgramFiles
from shared.serving.versions.rehearsal import ALONE, differences, warming
from shared.serving.versions.stacking import stacked

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
        open: Callable[[Arrangement], Session],
        folder: Path,
        task: Task,
        budget: Budget,
        arrangement: Arrangement,
        cores: Cores,
        where: Where,
        clock: Clock,
        log: Log,
        metrics: EngineMetrics,
        pool: Executor,
    ) -> None:
        """`open` gives a session of the variant's program in `folder`, not loaded yet; raises what it raises."""
        self.tenant = tenant
        self.name = name
        self.version = manifest.version
        self.manifest = manifest
        self.digest = digest
        self.variant = variant
        self.task = task
        self.state = ModelState.LOADING
        self.error = ""
        self._clock = clock
        self._listed: Listed | None = None
        self._metrics = metrics
        self._pool = pool
        form = manifest.variant(variant)
        self.residence = Residence(described(manifest, form), load_s=form.measured.get("load_ms", 0.0) / 1e3)
        self.program = Program(
            open(arrangement),
            reopen=lambda: open(self.arrangement),
            files=ProgramFiles(manifest, form, folder),
            lanes=self._lanes,
            inline=manifest.task is not TaskKind.TEXT_GENERATION,
        )
        self.cost = Cost()  # The fitted time of a batch; replaced whole, on the loop's thread.
        self._budget = budget
        self.queue = BatchQueue(clock=clock, loop=asyncio.get_running_loop(), budget=budget, lanes=1)
        self.arrange(arrangement)
        self.limiter = Limiter(self.queue)
        self.meter = Meter(metrics, name, self.version, where, depth=lambda: self.queue.depth)
        self._cores = cores
        self._log = log.bind(model=name, version=self.version, variant=variant)
        self.enter(ModelState.LOADING)

    def took(self, admitted: Admitted, began: float, *, missed: bool = False) -> None:
        """A request that began at `began` ended now, answered or, where it `missed` its deadline, given up."""
        now = self.residence.last_used = self._clock.monotonic()
        self.limiter.took(admitted, began, now=now, missed=missed)

    def arrange(self, arrangement: Arrangement) -> None:
        """Run like this once the program is loaded the next time; its batches are bounded like this from now on."""
        self.arrangement, self.queue.lanes, self._listed = arrangement, arrangement.lanes, None
        task, rows, tokens = self.manifest.task, arrangement.rows, arrangement.tokens
        alone, generates = task is TaskKind.TENSOR and not self._stacks, task is TaskKind.TEXT_GENERATION
        self.queue.budget = bounded(self._budget, rows=rows, tokens=tokens, alone=alone, generates=generates)
        self._most = 0 if tokens or alone or generates else self._budget.tokens

    def enter(self, state: ModelState, error: str = "") -> None:
        """Go to `state`."""
        self.state = state
        self.error = error
        self._metrics.is_in(self.name, self.version, state)

    @property
    def key(self) -> Key:
        """What it is known by."""
        return self.tenant, self.name, self.version

    async def stop(self) -> bool:
        """Fail what waits, end what runs, free the session; whether every thread ended."""
        self.queue.close()
        ended = await self.program.stop()
        self._metrics.forget(self.name, self.version)
        return ended

    async def warm(self, folder: Path) -> None:
        """Run the model, short and long, then replay the golden set.

        Raises:
            Corrupt: an answer differs from what the bundle expects.

        """
        if self.manifest.task is not TaskKind.TENSOR:
            short, long = warming(self.manifest)
            self.program.rehearsal = self._prepare((short.text,), {**short.parameters, "truncate": True})
            await self._computed((short.text,), short.parameters)
            # The first run allocates and is no measure of those that follow; a short and the longest run fix the line.
            self.cost = Cost()
            for text, parameters in (short, long):
                await self._computed((text,), parameters)
        differences = await self.check_golden(folder)
        if differences:
            raise Corrupt(f"the golden set differs: {'; '.join(differences[:3])}", code="golden-differs")
        if self.manifest.task is TaskKind.TENSOR:
            program = self._list(active=False), self.manifest, folder
            self.task = await stacked(self.task, self._computed, *program, log=self._log, clock=self._clock)
            self.arrange(self.arrangement)

    async def check_golden(self, folder: Path) -> list[str]:
        """What differs from the golden set, alone and in a batch; empty where nothing does."""
        golden = await asyncio.to_thread(read_golden, self.manifest, folder)
        if not golden.items:
            return []
        items = [item_of(item, self.manifest) for item in golden.items]
        self.program.rehearsal = self.program.rehearsal or self._prepare(items[:1], {"truncate": True})
        alone = [(await self._computed((item,)))[0] for item in items[:ALONE]]
        together = await self._computed(items)
        results = [*enumerate(alone), *enumerate(together)]
        return differences(golden, self.variant, results, precision=self.arrangement.precision)

    async def measure(self, items: Sequence[Item], parameters: Mapping[str, object]) -> None:
        """Compute one batch's worth of `items`, for nobody, so that the fit learns what they take; more would teach no more."""
        await self._computed(items[: self.queue.budget.rows], parameters)

    async def prepare(self, items: Sequence[object], parameters: Mapping[str, object]) -> list[Prepared]:
        """Every item ready for a batch; off the loop's thread unless they are short.

        Raises:
            Refused: one item cannot be taken; names it as `texts[i]` among several.

        """
        here = self.prepare_here(items, parameters)
        if here is not None:
            return here
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._prepare, items, parameters)

    def prepare_here(self, items: Sequence[object], parameters: Mapping[str, object]) -> list[Prepared] | None:
        """As `prepare`, where they are short; None where they are not."""
        size = 0
        for item in items:
            size += len(item) if isinstance(item, str) else INLINE
        return self._prepare(items, parameters) if size <= INLINE else None

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

    def inline(self, prepared: Sequence[Prepared]) -> tuple[tuple[Result, ...], Timing] | None:
        """The results of `prepared` at once, where computing them takes less than handing them over; None where it does not.

        Raises:
            Refused, Transient, Corrupt: as a lane's run.

        """
        here = self.program.inline
        if here is None or not here.fits(prepared):
            return None
        return here.run(prepared)

    def listed(self, *, active: bool) -> Listed:
        """How faces see it; made anew only when something changed, since every request asks."""
        known = self._listed
        if known is None or (known.active, known.state, known.resident) != (active, self.state, self.residence.present):
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
            inputs=self.manifest.inputs or self.program.session.inputs,
            outputs=self.manifest.outputs or self.program.session.outputs,
            labels=self.manifest.labels,
            max_length=self.manifest.processing.max_length if self.manifest.task is not TaskKind.TENSOR else 0,
            batch_invariant=self.manifest.variant(self.variant).batch_invariant,
            resident=self.residence.present,
            max_batch_size=self.queue.budget.rows if self._stacks else 0,
            runtime=self.arrangement.runtime,
        )

    @property
    def _stacks(self) -> bool:
        return isinstance(self.task, TensorTask) and self.task.stacks

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

    def _lanes(self, session: Session, rehearsal: Sequence[Prepared]) -> Lanes:
        return Lanes(
            f"{self.name}@{self.version}",
            session=session,
            task=self.task,
            queue=self.queue,
            arrangement=self.arrangement,
            cores=self._cores,
            clock=self._clock,
            log=self._log,
            ran=self._ran,
            rehearsal=rehearsal,
        )

    def _ran(self, ran: Ran) -> None:
        self.residence.runs += 1
        if ran.whole:  # What was abandoned on the way took less than it would have, and teaches nothing.
            self.cost = observed(self.cost, ran.tokens, ran.compute)
            if self._most:
                self.queue.budget = worth(self.queue.budget, self._most, self.cost)
        if self.program.inline is not None:
            self.program.inline.learn(ran)
        if self.state is not ModelState.WARMING:  # Nobody asked for what warming computes.
            self.meter.ran(ran)

    async def _computed(
        self, items: Sequence[object], parameters: Mapping[str, object] | None = None
    ) -> tuple[Result, ...]:
        prepared = await self.prepare(items, {**(parameters or {}), "truncate": True})
        gathering = Gathering(len(items))
        tokens = sum(item.rows * item.tokens for item in prepared)
        with self.queue.reserve(Admitted(ask=Ask(entries=len(items), tokens=tokens), predicted=0.0)) as permit:
            if not self.program.is_in_memory:
                raise Transient("the program is not in memory", why=Unavailable.NOT_READY)
            self.queue.enter(permit)
            self.submit(permit, prepared, gathering)
            return await gathering.future
