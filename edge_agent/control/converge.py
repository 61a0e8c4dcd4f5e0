"""Bringing the device to its newest generation: observe, decide, record the intent, do one step, report.

Invariants:

* a generation is durable before it counts as accepted, and recorded as applied before it answers;
* models and policy change hands in one move, with no `await` between;
* only the newest accepted generation matters: a newer one interrupts a fetch and the wait after a failure;
* at start the applied generation answers from disk before anything connects; if it cannot, the one before it does;
* a generation that does not pass its probation gives way to the one before it, from disk and memory alone.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from edge_agent.control.applied import PolicyHolder
from edge_agent.control.arrangements import Arrangements
from edge_agent.control.host import ModelHost
from edge_agent.control.probation import Probation
from edge_agent.control.progress import Standing, Told, given_up, report_of, there
from edge_agent.control.state import AgentState, Slot
from edge_agent.control.stepper import Stepper
from edge_agent.control.trust import Trust, check_newer
from edge_agent.decide.answering import active_versions
from edge_agent.decide.keeping import keeps
from edge_agent.decide.probation import Verdict
from edge_agent.decide.steps import Done, GiveUp, Install, Load, Observed, Step, Swap, Unload, next_step
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.mqtt import backoff
from shared.protocol.desired import Generation, SignedGeneration
from shared.protocol.errors import Refused, Transient
from shared.protocol.reported import Isolation, Reported

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
        stepper: Stepper,
        probation: Probation,
        *,
        state: AgentState,
        host: ModelHost,
        holder: PolicyHolder,
        arrangements: Arrangements,
        clock: Clock,
        log: Log,
        draw: Callable[[], float],
        changed: Callable[[], None] = lambda: None,
        isolation: Isolation | None = None,
        pinned: Collection[str] = (),
    ) -> None:
        """`changed` is called whenever `report` would say something new; `draw` gives a number from [0, 1).

        `isolation` is only told: what keeps models off the network while they are tried. `pinned`: models never put out of memory.
        """
        self._told = Told(changed, log, clock)
        self._trust = trust
        self._state = state
        self._stepper = stepper
        self._arrangements = arrangements
        self._probation = probation
        self._host = host
        self._holder = holder
        self._clock = clock
        self._log = log
        self._draw = draw
        self._isolation = isolation
        self._pinned = frozenset(pinned)
        self._accepting = asyncio.Lock()
        self._news = asyncio.Event()
        self._target: _Target | None = None
        self._applied: Generation | None = None
        self._previous: Generation | None = None

    @property
    def refused(self) -> Mapping[str, int]:
        """Generations that were not accepted, counted by the code of the refusal."""
        return self._told.refused

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
                self._told.refuse(error)
                return
            await asyncio.to_thread(self._state.accept, signed)
            self._target = _Target(signed, generation)
            self._told.refusal = None
        self._log.info("generation accepted", epoch=generation.epoch, number=generation.number)
        if self._clock.wall() >= generation.expires_at:
            self._log.warning("the generation has expired; it runs all the same", expires_at=generation.expires_at)
        self._news.set()
        self._told.stand(Standing())

    async def start_from_disk(self) -> None:
        """Answer with what is on disk: the applied generation, else the one before it, else what is left of the first."""
        await self._stepper.recover()
        with contextlib.suppress(Transient):
            await self._probation.recover()
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
                if generation is self._applied:
                    await self._probation.resume(generation, self._previous)
                if self._probation.next_look is None:
                    await self._stepper.record(self._state.forgive, generation, must=False)
                break
        else:
            if self._applied is not None:
                self._log.error("no generation is whole on disk", order=tuple(self._applied.order))
                for model in self._applied.models:
                    await self._loaded(msgspec.structs.replace(self._applied, models=(model,)))
                self._take_over(self._applied)
        self._told.stand(Standing())

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
                self._told.stand(msgspec.structs.replace(self._told.standing, error=error.message))
            if outcome is _Round.OVER:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), self._probation.next_look)
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
        report = report_of(target, current, listed, self._told, now=now)
        tuned = self._arrangements.upstream({model.digest for model in report.models})
        return msgspec.structs.replace(report, isolation=self._isolation, tuned=tuned)

    async def _advance(self, target: _Target) -> _Round:
        """One round: one step at the most."""
        generation = target.generation
        step = next_step(generation, await self._observe(generation))
        match step:
            case Done() | GiveUp():
                return await self._over(generation, step)
            case Swap():
                await self._swap(target, step.variants)
            case _:
                return _Round.NEXT if await self._attempt(generation, step) else _Round.FAILED
        return _Round.NEXT

    async def _over(self, generation: Generation, step: Done | GiveUp) -> _Round:
        """There is nothing more to do; does what answers stay?"""
        if self._probation.next_look is not None and (verdict := self._probation.verdict()).stays is not None:
            await (self._probation.commit(verdict) if verdict.stays else self._roll_back(verdict))
            return _Round.NEXT
        on_trial = self._probation.next_look is not None
        standing = given_up(step) if isinstance(step, GiveUp) else there(on_probation=on_trial)
        if isinstance(step, GiveUp):
            current = self._holder.generation
            self._host.bound(None if current is None else current.limits.memory_bytes)
        if standing != self._told.standing:
            event = "generation given up" if isinstance(step, GiveUp) else "converged"
            self._log.info(event, epoch=generation.epoch, number=generation.number, error=standing.error)
            self._told.stand(standing)
        return _Round.OVER

    async def _roll_back(self, verdict: Verdict) -> None:
        """Durable first; then the generation before answers again, once it is in memory, and this one until then."""
        await self._probation.roll_back(verdict)
        self._applied, self._previous = self._previous, None
        if self._applied is not None and await self._loaded(self._applied):
            self._take_over(self._applied)

    async def _swap(self, target: _Target, variants: Mapping[str, str]) -> None:
        proved = self._probation.next_look is None
        again = self._applied is not None and self._applied.order == target.generation.order
        before = self._applied if proved and not again else self._previous
        # Whoever dies with both in memory, before the new one answered, dies of the new one.
        await self._stepper.intend(target.generation, Swap(generation=target.generation, variants=dict(variants)))
        await self._probation.apply(target.signed, target.generation, before, variants)
        self._take_over(target.generation)
        self._previous, self._applied = before, target.generation
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
        self._told.changed()

    async def _observe(self, desired: Generation) -> Observed:
        kept = [generation for generation in (self._applied, self._previous) if generation is not None]
        unproved = self._probation.next_look is not None
        return await self._stepper.observe(desired, current=self._holder.generation, kept=kept, unproved=unproved)

    async def _attempt(self, generation: Generation, step: Step, *, booting: bool = False) -> bool:
        self._told.stand(Standing(step=step, error=self._told.standing.error))
        # What is loaded now is loaded within the limits of the generation it is for.
        self._host.bound(generation.limits.memory_bytes)
        error = await self._stepper.attempt(
            generation, step, progress=self._told.progress, news=self._news, booting=booting
        )
        self._told.stand(Standing(step=step, error=error))
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
                case Install() | Load() | Unload():
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
