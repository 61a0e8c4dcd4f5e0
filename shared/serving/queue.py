"""The owner of waiting requests of one session: entries in from the loop's thread, batches out to the worker's.

Invariants:

* nothing waits without a `Permit`, and a permit needs the verdict `Admitted`: overload control cannot be forgotten;
* a permit gives everything back when its `with` block ends, however it ends; entries it still has waiting go with it,
  so work nobody waits for is never computed;
* the worker blocks on a condition and takes what waits the moment it is free: no timers, no polling;
* sinks are touched on the loop's thread only, by one `call_soon_threadsafe` per batch or step.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from shared.io.clock import Clock
from shared.protocol.errors import TidelineError, Transient, Unavailable
from shared.serving.answer import Result, Timing
from shared.serving.decide.admission import Admitted, Load
from shared.serving.decide.batching import Budget, Waiting, next_batch
from shared.serving.decide.cost import Cost, predict
from shared.serving.tasks.task import Prepared


class Sink(Protocol):
    """Where results of a request go; called on the loop's thread only. `index` is the item's place in the request."""

    def deliver(self, index: int, result: Result, timing: Timing, *, final: bool) -> None:
        """One result, or one piece of it while `final` is false."""
        ...

    def fail(self, index: int, error: TidelineError) -> None:
        """The item will have no result."""
        ...


class Entry:
    """One item that waits or is computed. `gone`: nobody wants it any more; `left`: when it left the queue."""

    __slots__ = ("gone", "id", "index", "left", "prepared", "sink", "waiting")

    def __init__(self, prepared: Prepared, sink: Sink, index: int) -> None:
        self.prepared = prepared
        self.sink = sink
        self.index = index
        self.id = -1
        self.waiting = Waiting(id=-1, tokens=prepared.tokens, rows=prepared.rows)
        self.left = 0.0
        self.gone = False


class Permit:
    """The right to wait: made by `BatchQueue.reserve`, given back at the end of its `with` block."""

    def __init__(self, queue: "BatchQueue", *, entries: int, tokens: int, size: int) -> None:
        self.entries = entries
        self.tokens = tokens
        self.size = size
        self.submitted: Sequence[Entry] = ()
        self._queue = queue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.give_back(self)


class BatchQueue:
    """Entries waiting for one worker. `reserve`, `submit` and permits belong to the loop's thread, `take` to the worker's."""

    def __init__(self, *, clock: Clock, loop: asyncio.AbstractEventLoop, budget: Budget) -> None:
        self.budget = budget
        self._clock = clock
        self._loop = loop
        self._condition = threading.Condition(threading.Lock())
        self._waiting: dict[int, Entry] = {}
        self._waiting_tokens = 0
        self._waiting_rows = 0
        self._running: Sequence[Entry] = ()
        self._running_padded = 0
        self._running_since = 0.0
        self._closed = False
        self._next_id = 0
        # Touched on the loop's thread only.
        self._permits = 0
        self._reserved_entries = 0
        self._reserved_tokens = 0
        self._bytes = 0
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()

    def reserve(self, admitted: Admitted) -> Permit:
        """Turn the verdict into a permit; no `await` may stand between `admit` and this, so that the two are one step."""
        ask = admitted.ask
        self._permits += 1
        self._reserved_entries += ask.entries
        self._reserved_tokens += ask.tokens
        self._bytes += ask.bytes
        self._idle.clear()
        return Permit(self, entries=ask.entries, tokens=ask.tokens, size=ask.bytes)

    def submit(
        self, permit: Permit, entries: Sequence[Entry], *, priority: int = 0, deadline: float | None = None
    ) -> None:
        """Let `entries` wait under `permit`; what was reserved by estimate is replaced by what they really cost.

        Raises:
            Transient: the queue is closed; the model was unloaded.

        """
        now = self._clock.monotonic()
        with self._condition:
            if self._closed:
                raise closed()
            for entry in entries:
                entry.id = self._next_id
                self._next_id += 1
                entry.waiting = Waiting(
                    id=entry.id,
                    tokens=entry.prepared.tokens,
                    rows=entry.prepared.rows,
                    priority=priority,
                    enqueued_at=now,
                    deadline=deadline,
                )
                self._waiting[entry.id] = entry
                self._count(entry, 1)
            self._condition.notify()
        self._reserved_entries -= permit.entries
        self._reserved_tokens -= permit.tokens
        permit.entries = permit.tokens = 0
        permit.submitted = entries

    def give_back(self, permit: Permit) -> None:
        """End of a permit: what it reserved is free again, and what it still has waiting is dropped."""
        self._permits -= 1
        self._reserved_entries -= permit.entries
        self._reserved_tokens -= permit.tokens
        self._bytes -= permit.size
        permit.entries = permit.tokens = permit.size = 0
        if permit.submitted:
            with self._condition:
                for entry in permit.submitted:
                    entry.gone = True
                    if self._waiting.pop(entry.id, None) is not None:
                        self._count(entry, -1)
            permit.submitted = ()
        if self._permits == 0:
            self._idle.set()

    def take(self) -> Sequence[Entry] | None:
        """Block until there is something to compute and return it; None once the queue is closed. Worker's thread."""
        with self._condition:
            self._running = ()
            self._running_padded = 0
            while True:
                while not self._waiting and not self._closed:
                    self._condition.wait()
                if self._closed:
                    return None
                now = self._clock.monotonic()
                batch = next_batch([entry.waiting for entry in self._waiting.values()], self.budget, now=now)
                dropped = [self._leave(drop.id, now) for drop in batch.dropped]
                if dropped:
                    self.post(_expire, dropped)
                if batch.ids:
                    entries = [self._leave(chosen, now) for chosen in batch.ids]
                    self._running = entries
                    self._running_padded = batch.padded
                    self._running_since = now
                    return entries

    def close(self, error: TidelineError | None = None) -> None:
        """Refuse what comes, fail what waits with `error`, and let `take` return None."""
        with self._condition:
            if self._closed:
                return
            self._closed = True
            waiting, self._waiting = list(self._waiting.values()), {}
            self._waiting_tokens = self._waiting_rows = 0
            self._condition.notify_all()
        if waiting:
            self.post(_fail_all, waiting, error or closed())

    def post(self, call: Callable[..., None], *arguments: object) -> None:
        """Run `call` on the loop's thread; nothing is left to tell once the loop is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)

    @property
    def is_idle(self) -> bool:
        """Whether no permit is out."""
        return self._idle.is_set()

    async def idle(self) -> None:
        """Until no permit is out."""
        await self._idle.wait()

    def load(self, cost: Cost, *, now: float) -> Load:
        """What waits and runs, and the seconds until a batch formed now would start."""
        with self._condition:
            waiting, waiting_tokens, waiting_rows = len(self._waiting), self._waiting_tokens, self._waiting_rows
            running, padded, since = self._running, self._running_padded, self._running_since
        queued = waiting + self._reserved_entries
        tokens = waiting_tokens + self._reserved_tokens
        # What is only reserved has no rows yet: one each.
        rows = waiting_rows + self._reserved_entries
        batches = max(-(-rows // self.budget.rows), -(-tokens // self.budget.tokens))
        left = max(0.0, predict(cost, padded) - (now - since)) if running else 0.0
        return Load(
            entries=queued + len(running),
            tokens=tokens + sum(entry.waiting.padded for entry in running),
            bytes=self._bytes,
            expected_wait=left + predict(cost, tokens, batches=batches),
        )

    @property
    def depth(self) -> int:
        """How many entries wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many entries are being computed."""
        return len(self._running)

    def _leave(self, id: int, now: float) -> Entry:
        entry = self._waiting.pop(id)
        self._count(entry, -1)
        entry.left = now
        return entry

    def _count(self, entry: Entry, sign: int) -> None:
        self._waiting_tokens += sign * entry.waiting.padded
        self._waiting_rows += sign * entry.waiting.rows


def closed() -> Transient:
    """What a request is told whose model is being unloaded."""
    return Transient("the model is being unloaded", why=Unavailable.NOT_READY, retry_after=1.0)


def deadline_missed() -> Transient:
    """What a request is told whose deadline passed."""
    return Transient("the deadline passed before the answer was computed", why=Unavailable.DEADLINE)


def _expire(entries: Sequence[Entry]) -> None:
    _fail_all(entries, deadline_missed())


def _fail_all(entries: Sequence[Entry], error: TidelineError) -> None:
    for entry in entries:
        entry.sink.fail(entry.index, error)
