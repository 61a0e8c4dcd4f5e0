"""One lane: a thread with a session takes what waits when free, computes it step by step, resolves. No timers.

A batch that fails takes only its own entries with it; the thread lives on. An exception outside the taxonomy out of a
runtime is a fault of the program it runs (`Corrupt`), not of the process.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import NamedTuple

from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Corrupt, TidelineError
from shared.serving.answer import Result, Text, Timing
from shared.serving.lanes.cores import Cores
from shared.serving.lanes.entry import Entry
from shared.serving.lanes.queue import BatchQueue
from shared.serving.sessions.session import Feeds, Outputs, Session
from shared.serving.tasks.task import Prepared, Task


class Ran(NamedTuple):
    """One computed batch: entries, padded tokens, seconds, how long each waited, and how it failed if it did.

    `whole`: nothing was abandoned on the way, so that its time tells of its tokens. `cpu`: seconds its thread spent in the
    program itself, without what it waited for others.
    """

    size: int
    tokens: int
    compute: float
    waits: tuple[float, ...]
    error: TidelineError | None
    whole: bool = False
    cpu: float = 0.0


class Ready(NamedTuple):
    """One result or piece on its way to its sink."""

    entry: Entry
    result: Result
    timing: Timing
    final: bool


class Worker:
    """Owns a session and its thread."""

    def __init__(
        self,
        name: str,
        *,
        session: Session,
        task: Task,
        queue: BatchQueue,
        cores: Cores,
        threads: int,
        clock: Clock,
        log: Log,
        ran: Callable[[Ran], None],
        rehearsal: Sequence[Prepared] = (),
    ) -> None:
        """`ran` is called on the loop's thread after every batch, before its results; a run holds `threads` of the `cores`.

        `rehearsal` is computed once, right after the load and for nobody: a program's first run allocates.
        """
        self._session = session
        self._rehearsal = rehearsal
        self._cores = cores
        self._threads = threads
        self._task = task
        self._queue = queue
        self._clock = clock
        self._log = log
        self._ran = ran
        self._wanted: frozenset[str] = frozenset()
        self._cpu = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """Start the thread and load the session in it.

        Raises:
            Corrupt: the program cannot be loaded.

        """
        self._thread.start()
        # Shielded: a caller that is cancelled must not leave the thread with a future nobody may resolve.
        await asyncio.shield(self._loaded)

    async def stop(self, *, patience: float = 5.0) -> bool:
        """Close the queue and end the thread; a run in progress is terminated. Whether the thread ended in `patience` s."""
        self._queue.close()
        self._session.interrupt()
        if not self._thread.ident:
            return True
        try:
            await asyncio.wait_for(self._ended.wait(), patience)
        except TimeoutError:
            return False
        return True

    def retire(self) -> None:
        """Take nothing more; what is being computed is finished, then the session closed and the thread ended."""
        self._queue.retire(self)

    async def ended(self) -> None:
        """Until the thread has ended, if it was ever started."""
        if self._thread.ident:
            await self._ended.wait()

    def interrupt(self) -> None:
        """End what is being computed; any thread may call it."""
        self._session.interrupt()

    def resume(self) -> None:
        """Compute again."""
        self._session.resume()

    def _run(self) -> None:
        try:
            self._session.load()
            self._wanted = frozenset(spec.name for spec in self._session.inputs)
            if self._rehearsal:
                deque(self._task.steps(self._run_once, self._rehearsal), maxlen=0)
        except Exception as error:
            self._session.close()
            self._queue.post(self._settle, faulty(error, "load"))
            self._queue.post(self._ended.set)
            return
        self._queue.post(self._settle, None)
        while (entries := self._queue.take(self)) is not None:
            self._compute(entries)
        self._session.close()
        self._queue.post(self._ended.set)

    def _settle(self, error: TidelineError | None) -> None:
        if error is not None:
            self._loaded.set_exception(error)
        else:
            self._loaded.set_result(None)

    def _compute(self, entries: Sequence[Entry]) -> None:
        began, self._cpu = self._clock.monotonic(), 0.0
        padded = padded_tokens([entry.prepared for entry in entries])
        waits = tuple(entry.left - entry.waiting.enqueued_at for entry in entries)
        open_entries = list(range(len(entries)))
        finished = 0
        try:
            for ready in self._steps(entries, open_entries, began):
                finished += sum(each.final for each in ready)
                if not open_entries:
                    # The last step tells of the batch too: one hop to the loop, and the fit is fresh before answers are out.
                    seconds = self._clock.monotonic() - began
                    whole = finished == len(entries)
                    ran = Ran(len(entries), padded, seconds, waits, None, whole, self._cpu)
                    self._queue.post(self._finished, ready, ran)
                elif ready:
                    self._queue.post(_deliver, ready)
        except Exception as error:
            fault = faulty(error, "run")
            seconds = self._clock.monotonic() - began
            left = [entries[i] for i in open_entries]
            self._queue.post(self._failed, left, Ran(len(entries), padded, seconds, waits, fault))

    def _steps(self, entries: Sequence[Entry], open_entries: list[int], began: float) -> Iterator[Sequence[Ready]]:
        """What each step has for whom; strikes finished and abandoned entries off `open_entries`."""
        steps = self._task.steps(self._run_once, [entry.prepared for entry in entries])
        try:
            gone: set[int] | None = None
            while (results := _next(steps, gone)) is not None:
                seconds = self._clock.monotonic() - began
                ready: list[Ready] = []
                gone = set()
                for i in tuple(open_entries):
                    entry, result = entries[i], results[i]
                    final = result is not None and not (isinstance(result, Text) and result.finish is None)
                    if entry.gone:
                        gone.add(i)
                    if final or entry.gone:
                        open_entries.remove(i)
                    if result is not None:
                        timing = Timing(queue=entry.left - entry.waiting.enqueued_at, compute=seconds)
                        ready.append(Ready(entry, result, timing, final))
                yield ready
                if not open_entries:
                    return
            raise Corrupt("the program ended before every result was there")
        finally:
            if isinstance(steps, Generator):
                steps.close()

    def _run_once(self, feeds: Feeds) -> Outputs:
        given = fed(feeds, self._wanted)
        with self._cores.held(self._threads):
            began = time.thread_time()
            outputs = self._session.run(given)
            self._cpu += time.thread_time() - began
            return outputs

    def _finished(self, ready: Sequence[Ready], ran: Ran) -> None:
        self._ran(ran)
        _deliver(ready)

    def _failed(self, entries: Sequence[Entry], ran: Ran) -> None:
        self._ran(ran)
        if ran.error is not None:
            # One that was ended because nobody waits for it any more is nobody's failure.
            log = self._log.debug if all(entry.gone for entry in entries) else self._log.warning
            log("batch failed", code=ran.error.code, error=ran.error.message, size=len(entries))
            for entry in entries:
                entry.sink.fail(entry.index, ran.error)


def padded_tokens(batch: Sequence[Prepared]) -> int:
    """What a batch costs: all rows, each as long as the longest."""
    if len(batch) == 1:
        return batch[0].rows * batch[0].tokens
    return sum(item.rows for item in batch) * max(item.tokens for item in batch)


def _next(steps: Iterator[Sequence[Result | None]], gone: Collection[int] | None) -> Sequence[Result | None] | None:
    """The next step, None after the last; a generator hears first which items nobody wants any more."""
    try:
        if gone and isinstance(steps, Generator):
            results: Sequence[Result | None] = steps.send(gone)
            return results
        return next(steps)
    except StopIteration:
        return None


def _deliver(ready: Sequence[Ready]) -> None:
    for entry, result, timing, final in ready:
        entry.done = final
        entry.sink.deliver(entry.index, result, timing, final=final)


def fed(feeds: Feeds, wanted: frozenset[str]) -> Feeds:
    """What the program wants of what its task makes.

    Raises:
        Corrupt: the task does not make all of it.

    """
    if feeds.keys() == wanted:
        return feeds
    if missing := [name for name in wanted if name not in feeds]:
        raise Corrupt(f"the program wants inputs its task does not make: {', '.join(sorted(missing))}")
    return {name: array for name, array in feeds.items() if name in wanted}


def faulty(error: Exception, doing: str) -> TidelineError:
    """The error as one of ours: an exception outside the taxonomy is the program's fault."""
    if isinstance(error, TidelineError):
        return error
    return Corrupt(f"the program failed to {doing}: {type(error).__name__}: {str(error)[:300]}")


def explained(error: BaseException) -> str:
    """Why loading failed, in one line."""
    return error.message if isinstance(error, TidelineError) else f"{type(error).__name__}: {error}"
