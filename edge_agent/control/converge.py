"""Bringing the device to its newest generation: observe, decide, record the intent, do one step, report.

Invariants:

* a generation is durable before it counts as accepted, and recorded as applied before it answers;
* models and policy change hands in one move, with no `await` between;
* only the newest accepted generation matters: a newer one interrupts a fetch and the wait after a failure;
* at start the applied generation answers from disk before anything connects; if it cannot, the one before it does.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from edge_agent.control.applied import PolicyHolder
from edge_agent.control.arrangements import Arrangements
from edge_agent.control.errand import Errands
from edge_agent.control.host import Disk, ModelHost
from edge_agent.control.progress import Standing, report_of
from edge_agent.control.state import Slot
from edge_agent.control.stepper import Stepper
from edge_agent.control.trust import Trust, check_newer
from edge_agent.decide.keeping import keeps
from edge_agent.decide.steps import Done, GiveUp, Install, Load, Observed, Step, Swap, active_versions, next_step
from edge_agent.decide.variants import Device
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.mqtt import backoff
from shared.protocol.desired import Generation, SignedGeneration
from shared.protocol.errors import Refusal, Refused, Transient
from shared.protocol.reported import Convergence, Isolation, Reported

RETRY_FIRST_S = 0.5
RETRY_MOST_S = 60.0


class _Target(NamedTuple):
    signed: SignedGeneration
    generation: Generation


class _Round(Enum):
    """How a round ended: there is nothing more to do, the next can come, or it should come a little later."""

    OVER = auto()
    NEXT = auto()
    FAILED = auto()


class Converger:
    """Owner of what this device runs; its methods are called on the event loop."""

    def __init__(
        self,
        trust: Trust,
        disk: Disk,
        errands: Errands,
        *,
        host: ModelHost,
        holder: PolicyHolder,
        device: Device,
        arrangements: Arrangements,
        clock: Clock,
        log: Log,
        draw: Callable[[], float],
        changed: Callable[[], None] = lambda: None,
        stepped: Callable[[str, str, float], None] = lambda *_: None,
        isolation: Isolation | None = None,
        pinned: Collection[str] = (),
    ) -> None:
        """`changed` is called whenever `report` would say something new; `draw` gives a number from [0, 1).

        `stepped` hears how each step ended, and after how many seconds.

        `isolation` is only told: what keeps models off the network while they are tried. `pinned`: names of models that are
        never put out of memory.
        """
        self.refused: dict[str, int] = {}
        """Generations that were not accepted, counted by the code of the refusal."""
        self._trust = trust
        self._state = disk.state
        self._stepper = Stepper(
            trust.tenant,
            disk,
            errands,
            host=host,
            device=device,
            measured=arrangements.advised,
            clock=clock,
            log=log,
            stepped=stepped,
        )
        self._arrangements = arrangements
        self._host = host
        self._holder = holder
        self._clock = clock
        self._log = log
        self._draw = draw
        self._changed = changed
        self._isolation = isolation
        self._pinned = frozenset(pinned)
        self._accepting = asyncio.Lock()
        self._news = asyncio.Event()
        self._target: _Target | None = None
        self._applied: Generation | None = None
        self._previous: Generation | None = None
        self._standing = Standing()
        self._refusal: Refused | None = None
        """Why the last message was not accepted, until one is."""

    async def accept(self, signed: SignedGeneration) -> None:
        """Take a generation from the cloud: durable when this returns, unless it is refused, which the report says.

        The newest one delivered again, as every connection does, changes nothing.

        Raises:
            Transient: it could not be made durable; it must come again.

        """
        async with self._accepting:
            if self._target is not None and signed.payload == self._target.signed.payload:
                return
            try:
                generation = self._trust.verified(signed)
                floor = await asyncio.to_thread(self._state.floor, self._trust.tenant, self._trust.device)
                check_newer(generation, floor=floor)
            except Refused as error:
                self._refuse(error)
                return
            await asyncio.to_thread(self._state.accept, signed)
            self._target = _Target(signed, generation)
            self._refusal = None
        self._log.info("generation accepted", epoch=generation.epoch, number=generation.number)
        if self._clock.wall() >= generation.expires_at:
            self._log.warning("the generation has expired; it runs all the same", expires_at=generation.expires_at)
        self._news.set()
        self._stand(Standing())

    async def start_from_disk(self) -> None:
        """Answer with what is on disk: the applied generation, else the one before it, else what is left of the first."""
        await self._stepper.recover()
        await self._arrangements.refresh()
        self._applied = await self._kept(Slot.APPLIED)
        self._previous = await self._kept(Slot.PREVIOUS)
        accepted = await self._kept(Slot.ACCEPTED)
        signed = await asyncio.to_thread(self._state.signed, Slot.ACCEPTED)
        if accepted is not None and signed is not None:
            self._target = _Target(signed, accepted)
        for generation in (self._applied, self._previous):
            if generation is not None and await self._loaded(generation):
                self._log.info("restored from disk", epoch=generation.epoch, number=generation.number)
                self._take_over(generation)
                await self._stepper.record(self._state.forgive, generation, must=False)
                break
        else:
            if self._applied is not None:
                self._log.error("no generation is whole on disk", order=tuple(self._applied.order))
                for model in self._applied.models:
                    await self._loaded(msgspec.structs.replace(self._applied, models=(model,)))
                self._take_over(self._applied)
        self._stand(Standing())

    async def run(self) -> None:
        """Converge for ever."""
        failed = 0
        while True:
            if self._news.is_set():
                self._news.clear()
                failed = 0
            if self._target is None:
                await self._news.wait()
                continue
            wait = 0.0
            try:
                outcome = await self._advance(self._target)
            except Transient as error:
                outcome, wait = _Round.FAILED, error.retry_after or 0.0
                self._log.warning("step failed for now", error=error.message)
                self._stand(msgspec.structs.replace(self._standing, error=error.message))
            if outcome is _Round.OVER:
                await self._news.wait()
            elif outcome is _Round.FAILED:
                drawn = backoff(failed, u=self._draw(), base=RETRY_FIRST_S, cap=RETRY_MOST_S)
                failed += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), max(drawn, min(wait, RETRY_MOST_S)))
            else:
                failed = 0

    def look_again(self) -> None:
        """What is loaded changed by itself: converge anew."""
        self._news.set()

    def report(self) -> Reported:
        """The whole state of this device; epoch, sequence number and time are the link's."""
        target = self._target.generation if self._target is not None else None
        listed = self._host.models(self._trust.tenant)
        current, now = self._holder.generation, self._clock.wall()
        report = report_of(target, current, listed, self._standing, self._refusal, now=now)
        tuned = self._arrangements.upstream({model.digest for model in report.models})
        return msgspec.structs.replace(report, isolation=self._isolation, tuned=tuned)

    async def _advance(self, target: _Target) -> _Round:
        """One round: one step at the most."""
        generation = target.generation
        step = next_step(generation, await self._observe(generation))
        match step:
            case Done():
                self._log.info("converged", epoch=generation.epoch, number=generation.number)
                self._stand(Standing(convergence=Convergence.APPLIED))
            case GiveUp():
                self._log.error("generation given up", reason=step.reason.value, digest=step.digest, error=step.error)
                error = f"{step.reason.value}: {step.error}"
                failed, current = frozenset({step.digest}), self._holder.generation
                self._host.bound(None if current is None else current.limits.memory_bytes)
                self._stand(Standing(convergence=Convergence.FAILED, failed=failed, error=error))
            case Swap():
                await self._swap(target)
            case _:
                return _Round.NEXT if await self._attempt(generation, step) else _Round.FAILED
        return _Round.OVER if isinstance(step, Done | GiveUp) else _Round.NEXT

    async def _swap(self, target: _Target) -> None:
        await asyncio.to_thread(self._state.apply, target.signed)
        self._take_over(target.generation)
        if self._applied is None or self._applied.order != target.generation.order:
            self._previous, self._applied = self._applied, target.generation
        self._arrangements.news.set()
        self._log.info("generation swapped in", epoch=target.generation.epoch, number=target.generation.number)

    def _take_over(self, generation: Generation) -> None:
        """Let `generation` answer, as far as its models are ready; one move, nothing in between."""
        ready = self._stepper.ready()
        versions = {name: version for name, version in active_versions(generation).items() if (name, version) in ready}
        self._host.activate(self._trust.tenant, versions)
        self._host.hold(self._trust.tenant, keeps(generation, self._pinned))
        self._host.bound(generation.limits.memory_bytes)
        self._holder.set(generation)
        self._changed()

    async def _observe(self, desired: Generation) -> Observed:
        kept = [generation for generation in (self._applied, self._previous) if generation is not None]
        return await self._stepper.observe(desired, current=self._holder.generation, kept=kept)

    async def _attempt(self, generation: Generation, step: Step, *, booting: bool = False) -> bool:
        self._stand(Standing(step=step, error=self._standing.error))
        # What is loaded now is loaded within the limits of the generation it is for.
        self._host.bound(generation.limits.memory_bytes)
        error = await self._stepper.attempt(generation, step, progress=self._progress, news=self._news, booting=booting)
        self._stand(Standing(step=step, error=error))
        return error is None

    async def _kept(self, slot: Slot) -> Generation | None:
        signed = await asyncio.to_thread(self._state.signed, slot)
        try:
            return None if signed is None else self._trust.kept(signed)
        except Refused as error:
            self._log.error("a stored generation cannot be used", slot=slot.value, error=error.message)
            return None

    async def _loaded(self, generation: Generation) -> bool:
        """Whether all of `generation` could be loaded with nothing but what is on this disk."""
        while True:
            step = next_step(generation, await self._observe(generation))
            match step:
                case Install() | Load():
                    try:
                        await self._attempt(generation, step, booting=True)
                    except Transient as error:
                        self._log.error("not restored from disk", order=tuple(generation.order), error=error.message)
                        return False
                case Swap():
                    return True
                case _:
                    reason = step.reason.value
                    self._log.error("not restored from disk", order=tuple(generation.order), reason=reason)
                    return False

    def _refuse(self, error: Refused) -> None:
        """Count what is not accepted. One that came late is what MQTT does; any other is for people to see."""
        self.refused[error.code] = self.refused.get(error.code, 0) + 1
        self._log.error("generation refused", code=error.code, error=error.message)
        if error.kind is not Refusal.CONFLICT:
            self._refusal = error
            self._changed()

    def _progress(self, done: int, total: int) -> None:
        self._stand(msgspec.structs.replace(self._standing, progress=done / total if total else 1.0))

    def _stand(self, standing: Standing) -> None:
        self._standing = standing
        self._changed()
