"""Which programs are in memory: brought in when they are wanted, put away when others need the room.

Invariants:

* programs come and go one at a time: what a load takes for a moment is taken once, and what a process grew by is one program's;
* between the verdict and the closing of what goes stands no `await`; what waits is looked at again when something changed;
* requests that want the same program wait for one load, and have entered it before anything else happens: it cannot go again
  before they were answered;
* a program nobody waits for any more is not brought in.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import TidelineError, Transient, Unavailable
from shared.protocol.reported import ModelState
from shared.serving.decide.residency import Keep, Key, Load, Refuse, Wait, Wanted, over, place
from shared.serving.lanes.queue import Permit, closed
from shared.serving.lanes.worker import explained
from shared.serving.memory.errors import RETRY_S, passing, refusal
from shared.serving.memory.room import Room
from shared.serving.memory.wants import Want
from shared.serving.versions.loaded import LoadedModel

PATIENCE_S = 0.05
"""A program waits this long, or as long as its own load takes, for others to be idle by themselves before any is asked to drain."""
DUTY = 0.2
"""Share of the time that goes into loads nobody waits for."""


class Residency:
    """Owner of what is wanted; loop's thread only. In a room without a budget nothing is ever put away."""

    def __init__(self, room: Room, *, clock: Clock, log: Log) -> None:
        self.room = room
        room.changed = self._nudge
        self._clock = clock
        self._log = log
        self._wants: dict[Key, Want] = {}
        self._changed = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._closed = False
        self._no_wish_before = 0.0
        self.lost: Callable[[], None] = lambda: None
        """Called when a version failed that was ready: whoever sees to what is loaded should look."""

    def bound(self, memory_bytes: int | None) -> None:
        """From now on programs may take `memory_bytes` at most, or the process's own budget where that is less."""
        self.room.bound(memory_bytes)
        self._nudge()

    def keep(self, tenant: str, keeps: Mapping[tuple[str, str], Keep]) -> None:
        """How firmly versions of `tenant` are held, by name and version; all others are held as any."""
        self.room.keep(tenant, keeps)
        self._nudge()

    async def first(self, model: LoadedModel) -> None:
        """Load a version for the first time, once there is room; it stays busy until `ready` or `forget`.

        Raises:
            Refused: it can never fit as things are; says how much it needs and how much there is.
            Corrupt: it cannot be loaded.

        """
        self.room.add(model)
        await self._wait(self._want(model, model.program.start), None)

    def ready(self, model: LoadedModel) -> None:
        """A version that was loaded for the first time answers from now on."""
        residence = model.residence
        residence.busy, residence.open = False, True
        residence.last_used = residence.loaded_at = self._clock.monotonic()
        self._nudge()

    def forget(self, model: LoadedModel) -> None:
        """The version is gone, or failed: nothing of it is brought back."""
        self.room.remove(model)
        want = self._wants.get(model.key)
        if want is not None and want.model is model and not want.started:
            self._settle(want, closed())
        self._nudge()

    async def enter(self, model: LoadedModel, permit: Permit) -> None:
        """Until the program of a ready version is in memory and `permit` has entered it.

        Raises:
            Transient: it cannot be brought back now.
            Corrupt: it cannot be brought back at all; the version has failed.

        """
        residence = model.residence
        if residence.open:
            model.queue.enter(permit)
            return
        if model.state is ModelState.FAILED:
            # It failed on its way back while this request was being prepared.
            raise Transient(model.error, why=Unavailable.NOT_READY, retry_after=RETRY_S)
        if residence.refused and self._clock.monotonic() < residence.retry_at:
            raise Transient(residence.refused, why=Unavailable.NOT_READY, retry_after=RETRY_S)
        await self._wait(self._wants.get(model.key) or self._want(model, lambda: self._back(model)), permit)

    def wish(self, model: LoadedModel) -> None:
        """Bring the program back though nobody waits, now and then: who wanted it went elsewhere because of the load."""
        residence = model.residence
        now = self._clock.monotonic()
        if residence.open or residence.busy or self._wants or max(self._no_wish_before, residence.retry_at) > now:
            return
        self._want(model, lambda: self._back(model)).wished = True
        self._no_wish_before = now + residence.load_s / DUTY

    def expected(self, model: LoadedModel, now: float) -> float:
        """Seconds until the program would be in memory, by what the last loads took; 0 where it is."""
        if model.residence.open:
            return 0.0
        seconds = 0.0
        for want in self._wants.values():
            seconds += want.left(now)
            if want.model is model:
                return seconds
        return seconds + model.residence.load_s

    async def settled(self) -> None:
        """Until nothing is wanted, nothing too much, and nothing on its way."""
        while self._runner is not None:
            await asyncio.wait({self._runner})

    async def close(self) -> None:
        """Bring nothing more in."""
        self._closed = True
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait({self._runner})
        self.room.close()

    def _want(self, model: LoadedModel, load: Callable[[], Awaitable[None]]) -> Want:
        if self._closed:
            raise closed()
        want = Want(model, load, since=self._clock.monotonic(), seconds=model.residence.load_s)
        self._wants[model.key] = want
        self._nudge()
        return want

    async def _wait(self, want: Want, permit: Permit | None) -> None:
        want.waiting.append(permit)
        try:
            await asyncio.shield(want.done)
        finally:
            want.waiting.remove(permit)
            if not want.waiting and not want.started and not want.wished and not want.done.done():
                self._settle(want, closed())
                self._nudge()

    def _nudge(self) -> None:
        """Something changed: look again."""
        self._changed.set()
        if self._runner is None and not self._closed:
            self._runner = asyncio.create_task(self._serve(), name="residency")

    async def _serve(self) -> None:
        """Bring in what is wanted, oldest first, and put out what is too much, until there is nothing of either."""
        room = self.room
        try:
            while self._changed.is_set() or self._wants or room.is_over:
                self._changed.clear()
                async with room.lock:
                    await room.evict(over(room.residents(), room.budget))
                    moved, again_at = await self._round()
                if moved:
                    self._changed.set()
                elif self._wants or room.is_over:
                    await self._pause(again_at)
        finally:
            self._gate(())
            for want in tuple(self._wants.values()):
                self._settle(want, closed())
            self._runner = None

    async def _pause(self, again_at: float | None) -> None:
        """Until something changed, or `again_at`."""
        models = tuple(self.room.models.values())
        for model in models:
            model.queue.freed = self._changed.set
        left = None if again_at is None else max(0.0, again_at - self._clock.monotonic())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
        finally:
            for model in models:
                model.queue.freed = None

    async def _round(self) -> tuple[bool, float | None]:
        """Whether one want was settled, and when to look again at the latest where none was."""
        room, again_at = self.room, None
        for number, want in enumerate(tuple(self._wants.values())):
            now, residence = self._clock.monotonic(), want.model.residence
            if residence.present:
                # It was asked to make room for another; whoever waits enters when its turn comes, or it was not needed.
                if number == 0:
                    self._gate(())
                if residence.open:
                    self._settle(want, None)
                    return True, None
                continue
            patience = want.since + max(PATIENCE_S, residence.load_s)
            wanted = Wanted(key=want.model.key, bytes=residence.footprint.bytes, patience_until=patience)
            match place(room.residents(), wanted, room.budget, now=now):
                case Load(evict):
                    await self._carry_out(want, evict)
                    return True, None
                case Refuse() as refused:
                    self._settle(want, refusal(want.model, refused))
                    return True, None
                case Wait() as wait if number == 0:
                    self._gate(wait.drain)
                    again_at = wait.again_at
                    if now >= patience:
                        # What becomes free from here on is the oldest's: nobody smaller overtakes it any more.
                        break
        return False, again_at

    async def _carry_out(self, want: Want, evict: tuple[Key, ...]) -> None:
        model, residence = want.model, want.model.residence
        want.starts(self._clock.monotonic())
        residence.present = residence.busy = True
        # Whoever was asked to make room and is not needed takes requests again; of the others `evict` lets nobody in.
        self._gate(())
        try:
            await self.room.evict(evict)
            await self.room.measured(model, want.load)
        except BaseException as error:
            residence.present = residence.busy = False
            self._settle(want, error if isinstance(error, Exception) else closed())
            if not isinstance(error, Exception):
                raise
            return
        if self.room.models.get(model.key) is not model:
            # Unloaded meanwhile.
            residence.present = residence.busy = False
            await self.room.let_go(model, model.program.put_away())
            self._settle(want, closed())
            return
        if model.state in (ModelState.READY, ModelState.DRAINING):
            residence.busy, residence.open = False, True
        self.room.show(model)
        self._settle(want, None)

    async def _back(self, model: LoadedModel) -> None:
        """Bring a version's program back."""
        residence, counted = model.residence, self.room.metrics.reloads.labels
        try:
            await model.program.renew()
        except TidelineError as raised:
            error = passing(raised)
            counted(model.name, model.version, "failed").inc()
            self._log.error("model does not come back", model=model.name, version=model.version, error=error.message)
            if isinstance(error, Transient):
                residence.refused = f"{model.name}@{model.version} cannot be brought back now: {error.message}"
                residence.retry_at = self._clock.monotonic() + max(RETRY_S, residence.load_s)
            elif model.state is ModelState.READY:
                # For whoever loads versions: it is verified and tried from the beginning there.
                model.enter(ModelState.FAILED, explained(error))
                self.lost()
            raise error from raised
        counted(model.name, model.version, "ok").inc()
        residence.refused = ""
        self._log.info("model back in memory", model=model.name, version=model.version)

    def _settle(self, want: Want, error: Exception | None) -> None:
        if self._wants.get(want.model.key) is want:
            del self._wants[want.model.key]
        if want.done.done():
            return
        if error is not None:
            want.done.set_exception(error)
            return
        for permit in want.waiting:
            if permit is not None:
                want.model.queue.enter(permit)
        want.done.set_result(None)

    def _gate(self, keys: tuple[Key, ...]) -> None:
        """Let nobody new into `keys`, and everybody into all others again."""
        for model in self.room.models.values():
            residence = model.residence
            if model.key in keys and residence.open:
                residence.open, residence.gated = False, True
            elif model.key not in keys and residence.gated:
                residence.open, residence.gated = True, False
