"""The owner of waiting requests of one model version: entries in from the loop's thread, batches out to its lanes'.

Invariants:

* nothing waits without a `Permit`, and a permit needs the verdict `Admitted`: overload control cannot be forgotten;
* a permit gives everything back when its `with` block ends, however it ends, and entries it still has waiting go with it;
* a lane blocks on a condition and takes what waits the moment it is free: no timers, no polling;
* a batch nobody waits for any more is interrupted, however long it would have run;
* sinks are touched on the loop's thread only, by one `call_soon_threadsafe` per batch or step.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from shared.io.clock import Clock
from shared.protocol.errors import TidelineError, Transient, Unavailable
from shared.serving.decide.admission import Admitted, Load
from shared.serving.decide.batching import Batch, Budget, Waiting, next_batch
from shared.serving.decide.cost import Cost
from shared.serving.decide.turn import expected_wait
from shared.serving.lanes.entry import Entry, Interruptible, Running


class Permit:
    """The right to wait: made by `BatchQueue.reserve`, given back at the end of its `with` block."""

    def __init__(self, queue: "BatchQueue", *, entries: int, tokens: int, size: int) -> None:
        self.entries = entries
        self.tokens = tokens
        self.size = size
        self.submitted: Sequence[Entry] = ()
        self.entered = False
        self._queue = queue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.give_back(self)


Form = Callable[..., Batch]
"""`next_batch`, or another choice with its arguments."""
NOTHING = Load()


class BatchQueue:
    """Entries waiting for the lanes of one version. `reserve`, `submit` and permits belong to the loop's thread, `take` to a lane's."""

    def __init__(
        self,
        *,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        budget: Budget,
        lanes: int = 1,
        form: Form = next_batch,
    ) -> None:
        """`form` chooses the next batch; another than ours is for comparing with ours."""
        self.budget = budget
        self.lanes = lanes
        self._form = form
        self._clock = clock
        self._loop = loop
        self._condition = threading.Condition(threading.Lock())
        self._waiting: dict[int, Entry] = {}
        self._waiting_tokens = 0
        self._waiting_rows = 0
        self._running: dict[Interruptible, Running] = {}
        self._abandoned = False  # Somebody may have given up what is being computed.
        self._retired: set[Interruptible] = set()
        self._closed = False
        self._next_id = 0
        self.freed: Callable[[], None] | None = None
        """Called, while it is set, whenever the queue becomes idle, or nothing is in use any more."""
        # Touched on the loop's thread only.
        self._permits = self._using = 0
        self._reserved_entries = self._reserved_tokens = self._bytes = 0
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

    def enter(self, permit: Permit) -> None:
        """From now on, until it is given back, `permit` is for a program that is in memory and must stay there."""
        if not permit.entered:
            permit.entered = True
            self._using += 1

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
                    group=entry.prepared.group,
                )
                self._waiting[entry.id] = entry
                self._count(entry, 1)
            self._condition.notify(len(entries))
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
        if not all(entry.done for entry in permit.submitted):
            with self._condition:
                for entry in permit.submitted:
                    entry.gone = True
                    if self._waiting.pop(entry.id, None) is not None:
                        self._count(entry, -1)
                for lane, running in self._running.items():
                    if not running.is_wanted:
                        self._abandoned = True
                        lane.interrupt()
        permit.submitted = ()
        if permit.entered:
            permit.entered = False
            self._using -= 1
        if self._permits == 0:
            self._idle.set()
        if self.freed is not None and self._using == 0:
            self.freed()

    def take(self, lane: Interruptible) -> Sequence[Entry] | None:
        """Block until there is something for `lane` to compute; None once it is retired or the queue closed. The lane's thread."""
        with self._condition:
            self._running.pop(lane, None)
            if self._abandoned:
                self._abandoned = not all(running.is_wanted for running in self._running.values())
            while True:
                while not self._waiting and not self._closed and lane not in self._retired:
                    self._condition.wait()
                if self._closed:
                    return None
                if lane in self._retired:
                    self._retired.discard(lane)
                    self._condition.notify()  # it may have been woken for an entry, which is another lane's now
                    return None
                now = self._clock.monotonic()
                idle = max(1, self.lanes - len(self._running))
                batch = self._form([entry.waiting for entry in self._waiting.values()], self.budget, now=now, idle=idle)
                dropped = [self._leave(drop.id, now) for drop in batch.dropped]
                if dropped:
                    self.post(_expire, dropped)
                if batch.ids:
                    entries = [self._leave(chosen, now) for chosen in batch.ids]
                    # Under the lock: whoever gives up from now on interrupts this batch and no other.
                    lane.resume()
                    tokens = sum(entry.waiting.padded for entry in entries)
                    self._running[lane] = Running(entries, batch.padded, now, tokens)
                    return entries

    def retire(self, lane: Interruptible) -> None:
        """Let `lane` take nothing more; what it computes it finishes."""
        with self._condition:
            self._retired.add(lane)
            self._condition.notify_all()

    def close(self, error: TidelineError | None = None) -> None:
        """Refuse what comes, fail what waits, and let `take` return None."""
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

    @property
    def in_use(self) -> bool:
        """Whether anybody who has a permit has entered."""
        return self._using > 0

    def load(self, cost: Cost, *, now: float) -> Load:
        """What waits and runs, and the seconds until a batch formed now would start.

        Asked several times for every request, so it takes no lock: what a lane takes meanwhile may be seen on both sides, never on none.
        """
        if self._permits == 0 and not self._running:
            return NOTHING
        waiting, waiting_tokens, waiting_rows = len(self._waiting), self._waiting_tokens, self._waiting_rows
        running: Sequence[Running] = tuple(self._running.values())
        if self._abandoned:
            # What nobody waits for any more is being interrupted, and holds nobody back.
            running = [each for each in running if each.is_wanted]
        queued, tokens = waiting + self._reserved_entries, waiting_tokens + self._reserved_tokens
        # What is only reserved has no rows yet: one each.
        rows, busy = waiting_rows + self._reserved_entries, [(each.padded, each.since) for each in running]
        wait = expected_wait(cost, self.budget, rows=rows, tokens=tokens, running=busy, lanes=self.lanes, now=now)
        entries = queued + sum([len(each.entries) for each in running])
        tokens += sum([each.tokens for each in running])
        return Load(entries=entries, tokens=tokens, bytes=self._bytes, expected_wait=wait)

    @property
    def has_batch(self) -> bool:
        """Whether a full batch waits."""
        return self._waiting_tokens >= self.budget.tokens or len(self._waiting) >= self.budget.rows

    @property
    def depth(self) -> int:
        """How many entries wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many entries are being computed."""
        return sum(len(each.entries) for each in tuple(self._running.values()))

    @property
    def is_quiet(self) -> bool:
        """Whether nothing waits or is computed, and at most one request has a permit."""
        if self._permits > 1 or self._waiting:
            return False
        # A lane whose results are out may not have come back for more yet.
        return all(entry.done for each in tuple(self._running.values()) for entry in each.entries)

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
