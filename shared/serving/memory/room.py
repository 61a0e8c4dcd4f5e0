"""The memory that programs share: which are in it, what each takes, and how one is put away so that its memory is free again.

Invariants:

* nobody enters a program from the first step of putting it away on;
* what was let go and still computes stays counted until its threads have ended.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.memory import Heap
from shared.protocol.reported import ModelState
from shared.serving.decide.footprint import corrected
from shared.serving.decide.residency import Keep, Key, Resident
from shared.serving.lanes.lanes import Lanes
from shared.serving.memory.metrics import ResidencyMetrics
from shared.serving.versions.loaded import LoadedModel

LINGER_S = 5.0
"""How long others wait for a program that was let go and still computes."""
_NEVER = float("inf")


class Room:
    """Owner of the programs' presence; loop's thread only. All that changes it is done by one at a time, who holds `lock`."""

    def __init__(
        self,
        *,
        clock: Clock,
        log: Log,
        metrics: ResidencyMetrics,
        budget: int | None = None,
        heap: Heap | None = None,
    ) -> None:
        """`budget`: bytes for programs, None for no bound. `heap`: whose growth corrects what is believed of programs, if any."""
        self.budget = budget
        self.heap = heap
        self.base = self.resident()
        """Bytes of the process that are no program's: libraries, and tokenizers of every version that was ever loaded."""
        self.models: dict[Key, LoadedModel] = {}
        self.lock = asyncio.Lock()
        self.changed: Callable[[], None] = lambda: None
        """Called when memory that was still in use became free."""
        self.metrics = metrics
        self.own = budget
        """The process's own bound; `budget` may be less."""
        self._clock = clock
        self._log = log
        self._keeps: dict[str, Mapping[tuple[str, str], Keep]] = {}
        self._lingering: dict[asyncio.Task[None], LoadedModel] = {}
        metrics.budget.set(budget or 0)

    def bound(self, memory_bytes: int | None) -> None:
        """From now on programs may take `memory_bytes` at most, or the process's own budget where that is less."""
        self.budget = min((each for each in (self.own, memory_bytes) if each is not None), default=None)
        self.metrics.budget.set(self.budget or 0)

    def keep(self, tenant: str, keeps: Mapping[tuple[str, str], Keep]) -> None:
        """How firmly versions of `tenant` are held, by name and version; all others are held as any."""
        self._keeps[tenant] = dict(keeps)
        for model in self.models.values():
            self._hold(model)
        if not self._pins_fit:
            self._log.error("pinned models do not fit into memory together", bytes=self._pinned, budget=self.budget)

    def add(self, model: LoadedModel) -> None:
        """A version whose program comes and goes from now on."""
        self.models[model.key] = model
        self._hold(model)

    def remove(self, model: LoadedModel) -> None:
        """A version is gone, or failed."""
        model.residence.open = False
        if self.models.get(model.key) is model:
            del self.models[model.key]
            with contextlib.suppress(KeyError):
                self.metrics.resident.remove(model.name, model.version)

    def resident(self) -> int:
        """Bytes of memory this process has; 0 where nobody measures."""
        return 0 if self.heap is None else self.heap.resident()

    def growth(self) -> int:
        """Bytes by which the process is larger than itself and its programs should be."""
        return self.resident() - self.base - sum(each.bytes for each in self.residents())

    @property
    def is_over(self) -> bool:
        """Whether programs take more than they may: a bound was lowered, or a program turned out larger, while it was in use."""
        return self.budget is not None and sum(each.bytes for each in self.residents()) > self.budget

    def residents(self) -> list[Resident]:
        """A snapshot."""
        pins = self._pins_fit
        found = [_resident(model, pins=pins) for model in self.models.values() if model.residence.present]
        for model in self._lingering.values():
            size = model.residence.footprint.bytes
            found.append(Resident(key=model.key, bytes=size, last_used=0.0, in_use=True, settled_at=_NEVER))
        return found

    async def evict(self, keys: tuple[Key, ...]) -> None:
        """Put programs away that nobody uses, and give their memory back."""
        models = [self.models[key] for key in keys]
        for model in models:
            model.residence.open = model.residence.gated = False
            model.residence.busy = True
        for model in models:
            await self.let_go(model, model.program.put_away())
            residence = model.residence
            residence.present = residence.busy = False
            residence.evictions += 1
            self.metrics.evictions.labels(model.name, model.version).inc()
            self.show(model)
            self._log.info(
                "model put out of memory", model=model.name, version=model.version, bytes=residence.footprint.bytes
            )
        if models:
            await self.trim()

    async def let_go(self, model: LoadedModel, lanes: Lanes | None) -> None:
        """Until threads that were let go have ended; those that take too long stay counted until they have."""
        if lanes is None:
            return
        ending = asyncio.create_task(lanes.ended(), name="lanes end")
        done, _ = await asyncio.wait({ending}, timeout=LINGER_S)
        if done:
            return
        self._log.warning("model thread does not end", model=model.name, version=model.version)
        self._lingering[ending] = model
        ending.add_done_callback(self._ended)

    async def measured(self, model: LoadedModel, load: Callable[[], Awaitable[object]]) -> None:
        """Load, and learn what it takes of time and of memory."""
        residence, heap = model.residence, self.heap
        began = self._clock.monotonic()
        if heap is None:
            await load()
        else:
            await self.trim()
            before = heap.resident()
            with heap.loading():
                await load()
            await self.trim()
            residence.footprint = corrected(residence.footprint, heap.resident() - before)
        now = self._clock.monotonic()
        residence.load_s = now - began
        residence.loaded_at = residence.last_used = now
        residence.runs = 0
        residence.loads += 1

    async def trim(self) -> None:
        """Give freed memory back to the kernel, beside the loop."""
        if self.heap is not None:
            await asyncio.to_thread(self.heap.trim)

    def show(self, model: LoadedModel) -> None:
        """Tell the metrics what it takes."""
        if self.models.get(model.key) is model:
            self.metrics.resident.labels(model.name, model.version).set(model.residence.held)

    def story(self) -> dict[str, object]:
        """What `/health` tells of it: of every version whether it is in memory, and what that takes."""
        now = self._clock.monotonic()
        return {
            "budget_bytes": self.budget,
            "programs_bytes": sum(each.bytes for each in self.residents()),
            "process_bytes": self.resident() or None,
            "gives_back": self.heap is not None and self.heap.trims,
            "versions": [
                {
                    "tenant": model.tenant,
                    "name": model.name,
                    "version": model.version,
                    "resident": model.residence.present,
                    "bytes": model.residence.footprint.bytes,
                    "keep": model.residence.keep,
                    "idle_s": round(max(0.0, now - model.residence.last_used), 3),
                    "load_s": round(model.residence.load_s, 3),
                    "loads": model.residence.loads,
                    "evictions": model.residence.evictions,
                    "recycled": model.residence.recycled,
                }
                for _, model in sorted(self.models.items())
            ],
        }

    def close(self) -> None:
        """Wait for nothing more."""
        for ending in tuple(self._lingering):
            ending.cancel()

    def _hold(self, model: LoadedModel) -> None:
        keeps = self._keeps.get(model.tenant, {})
        model.residence.keep = keeps.get((model.name, model.version), Keep.NORMAL)

    @property
    def _pinned(self) -> int:
        return sum(m.residence.footprint.bytes for m in self.models.values() if m.residence.keep is Keep.PINNED)

    @property
    def _pins_fit(self) -> bool:
        return self.budget is None or self._pinned <= self.budget

    def _ended(self, ending: asyncio.Task[None]) -> None:
        del self._lingering[ending]
        self.changed()


def _resident(model: LoadedModel, *, pins: bool) -> Resident:
    residence = model.residence
    busy = residence.busy or model.state is not ModelState.READY
    return Resident(
        key=model.key,
        bytes=residence.footprint.bytes,
        last_used=residence.last_used,
        # Pins that do not fit together would let the last of them never in.
        keep=residence.keep if pins or residence.keep is not Keep.PINNED else Keep.LAST,
        # Those who wait outside a program that is asked to make room do not keep it there.
        asked=not residence.gated and not model.queue.is_idle,
        in_use=busy or model.queue.in_use,
        settled_at=_NEVER if busy else residence.settled_at,
    )
