"""One step at a time: look at what there is, record the intent, run the errand, record how it ended.

Invariants: the intent is durable before a step starts, so that what the agent dies of is known when it is back; a failure is
durable before the next decision is taken, so that a crash in between does not give it another chance.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from edge_agent.control.errand import Errands, named
from edge_agent.control.host import Disk, ModelHost
from edge_agent.decide.steps import Fetch, Loaded, Observed, Step
from edge_agent.decide.variants import Device, advice
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.desired import Generation
from shared.protocol.errors import Corrupt, Refused, Transient
from shared.protocol.reported import ModelState

PATIENCE_S = {"install": 3600.0, "load": 900.0, "unload": 120.0, "collect": 900.0}
"""How long a step may take; a fetch has bounds of its own. What hangs on a disk or in a program cannot be ended, only left."""


class Stepper:
    """Observes and does; decides nothing."""

    def __init__(
        self,
        tenant: str,
        disk: Disk,
        errands: Errands,
        *,
        host: ModelHost,
        device: Device,
        measured: Callable[[], Mapping[str, str]],
        clock: Clock,
        log: Log,
        stepped: Callable[[str, str, float], None] = lambda *_: None,
    ) -> None:
        """`measured` gives the variants that were found best on this device, by digest; `stepped` hears of each step's end."""
        self._tenant = tenant
        self._measured = measured
        self._disk = disk
        self._errands = errands
        self._host = host
        self._device = device
        self._clock = clock
        self._log = log
        self._stepped = stepped

    async def observe(
        self, desired: Generation, *, current: Generation | None, kept: Sequence[Generation], unproved: bool = False
    ) -> Observed:
        """How far things are; `current` answers, `unproved` where it is on probation; `kept` stay on disk."""
        seen = await asyncio.to_thread(self._errands.look, [desired, *kept], desired.limits)
        loaded = {
            (entry.name, entry.version): Loaded(digest=entry.digest, variant=entry.variant, state=entry.state)
            for entry in self._host.models(self._tenant)
        }
        running = {each.digest: each.variant for each in loaded.values()}
        return Observed(
            device=self._device.within(desired.limits.memory_bytes),
            current=current,
            kept=frozenset(model.digest for generation in kept for model in generation.models),
            manifests=seen.manifests,
            chunks=seen.chunks,
            installed=seen.installed,
            loaded=loaded,
            failures=seen.failures,
            advised=advice(self._measured(), running=running, installed=seen.installed),
            unproved=unproved,
            room=seen.room,
        )

    def ready(self) -> frozenset[tuple[str, str]]:
        """Name and version of what can answer."""
        listed = self._host.models(self._tenant)
        return frozenset((entry.name, entry.version) for entry in listed if entry.state is ModelState.READY)

    async def attempt(
        self,
        generation: Generation,
        step: Step,
        *,
        progress: Callable[[int, int], None],
        news: asyncio.Event,
        booting: bool = False,
    ) -> str | None:
        """Do one step of `generation`; the error it failed with, or None.

        Args:
            generation: whose step it is.
            step: not `Swap`, `Done` or `GiveUp`.
            progress: called with bytes done of all while fetching.
            news: set when a newer generation has come: a fetch ends then, and no failure is held against the new one.
            booting: serving matters more than the record: a full disk is no reason not to load.

        Raises:
            Transient: it failed for now.

        """
        name, about = named(step)
        await self.record(self._disk.state.begin, generation.order, name, about, must=not booting)
        began = self._clock.monotonic()
        try:
            done = await self._interruptible(generation, step, progress, news)
        except (Refused, Corrupt) as error:
            if not about:
                raise  # with no model version to blame, it is a bug
            self._stepped(name, "failed", self._clock.monotonic() - began)
            self._log.error("step failed", step=name, about=about, code=error.code, error=error.message)
            if not news.is_set():
                await self.record(self._disk.state.fail, about, error.message, must=True)
            return error.message
        except Transient:
            self._stepped(name, "failed-for-now", self._clock.monotonic() - began)
            raise
        seconds = round(self._clock.monotonic() - began, 3)
        self._stepped(name, "done" if done else "interrupted", seconds)
        await self.record(self._disk.state.finish, must=not booting)
        event = "step done" if done else "step interrupted"
        self._log.info(event, step=name, reason=step.reason.value, about=about, seconds=seconds)
        return None

    async def intend(self, generation: Generation, step: Step) -> None:
        """Record that `step` is about to be done, by somebody else; whoever does it records its end.

        Raises:
            Transient: that could not be recorded.

        """
        await self.record(self._disk.state.begin, generation.order, *named(step), must=True)

    async def recover(self) -> None:
        """Take up what the last run left: what it died in, and half-written files."""
        state = self._disk.state
        intent = await asyncio.to_thread(state.intent)
        if intent is not None:
            # Before the intent goes: a crash in here comes back to it.
            await self.record(self._errands.settle, must=False)
        if intent is not None and intent.subject:
            self._log.warning("the last run died", step=intent.step, about=intent.subject, attempts=intent.attempts)
            await self.record(state.crash, intent.subject, f"the agent died in step {intent.step}", must=False)
        elif intent is not None:
            await self.record(state.finish, must=False)
        await self.record(self._errands.clear, must=False)

    async def record(self, write: Callable[..., object], *arguments: object, must: bool) -> None:
        """Write to disk; what need not be written is let go when the disk is full or failing, so that serving goes on."""
        try:
            await asyncio.to_thread(write, *arguments)
        except Transient as error:
            if must:
                raise
            self._log.warning("not recorded", error=error.message)

    async def _interruptible(
        self, generation: Generation, step: Step, progress: Callable[[int, int], None], news: asyncio.Event
    ) -> bool:
        """Run the errand to its end; only a fetch, whose chunks are kept, ends early when a newer generation comes."""
        errand = asyncio.create_task(self._errands.run(step, generation.limits, progress=progress), name="step")
        tasks: set[asyncio.Task[None] | asyncio.Task[bool]] = {errand}
        name, _ = named(step)
        if isinstance(step, Fetch):
            tasks.add(asyncio.create_task(news.wait(), name="newer generation"))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S.get(name))
            late = not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if late:
            raise Corrupt(f"it did not end within {PATIENCE_S[name]:.0f} s", code="too-slow")
        if errand.cancelled():
            return False
        await errand
        return True
