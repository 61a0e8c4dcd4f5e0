"""One thread per session: take what waits when free, compute it step by step, resolve. No timers.

A batch that fails takes only its own entries with it; the thread lives on. An exception outside the taxonomy out of a
runtime is a fault of the program it runs (`Corrupt`), not of the process.
"""

import asyncio
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import NamedTuple

from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Corrupt, TidelineError
from shared.serving.answer import Result, Text, Timing
from shared.serving.decide.cost import Cost, observed
from shared.serving.queue import BatchQueue, Entry
from shared.serving.sessions.session import Feeds, Outputs, Session
from shared.serving.tasks.task import Task


class Ran(NamedTuple):
    """One computed batch, for metrics: entries, padded tokens, seconds, the longest wait, and how it failed if it did."""

    size: int
    tokens: int
    compute: float
    waits: tuple[float, ...]
    error: TidelineError | None


class Ready(NamedTuple):
    """One result or piece on its way to its sink."""

    entry: Entry
    result: Result
    timing: Timing
    final: bool


class Worker:
    """Owns a session and its thread. `cost` is replaced whole, so any thread may read it."""

    def __init__(
        self,
        name: str,
        *,
        session: Session,
        task: Task,
        queue: BatchQueue,
        clock: Clock,
        log: Log,
        ran: Callable[[Ran], None],
    ) -> None:
        """`ran` is called on the loop's thread after every batch."""
        self.cost = Cost()
        self._session = session
        self._task = task
        self._queue = queue
        self._clock = clock
        self._log = log
        self._ran = ran
        self._wanted: frozenset[str] = frozenset()
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
        self._session.terminate()
        if not self._thread.ident:
            return True
        try:
            await asyncio.wait_for(self._ended.wait(), patience)
        except TimeoutError:
            return False
        return True

    def _run(self) -> None:
        try:
            self._session.load()
            self._wanted = frozenset(spec.name for spec in self._session.inputs)
        except Exception as error:
            self._queue.close()
            self._session.close()
            self._queue.post(self._settle, _taxonomy(error, "load"))
            self._queue.post(self._ended.set)
            return
        self._queue.post(self._settle, None)
        while (entries := self._queue.take()) is not None:
            self._compute(entries)
        self._session.close()
        self._queue.post(self._ended.set)

    def _settle(self, error: TidelineError | None) -> None:
        if error is not None:
            self._loaded.set_exception(error)
        else:
            self._loaded.set_result(None)

    def _compute(self, entries: Sequence[Entry]) -> None:
        began = self._clock.monotonic()
        prepared = [entry.prepared for entry in entries]
        padded = sum(item.rows for item in prepared) * max(item.tokens for item in prepared)
        waits = tuple(entry.left - entry.waiting.enqueued_at for entry in entries)
        open_entries = list(range(len(entries)))
        finished = 0
        try:
            for ready in self._steps(entries, open_entries, began):
                finished += sum(each.final for each in ready)
                if not open_entries:
                    # The last step tells of the batch too: one hop to the loop, and the fit is fresh before answers are out.
                    seconds = self._clock.monotonic() - began
                    if finished == len(entries):
                        # What was abandoned on the way took less than it would have, and teaches nothing.
                        self.cost = observed(self.cost, padded, seconds)
                    self._queue.post(self._finished, ready, Ran(len(entries), padded, seconds, waits, None))
                elif ready:
                    self._queue.post(_deliver, ready)
        except Exception as error:
            fault = _taxonomy(error, "run")
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
        return self._session.run(self._fed(feeds))

    def _fed(self, feeds: Feeds) -> Feeds:
        missing = self._wanted - feeds.keys()
        if missing:
            raise Corrupt(f"the program wants inputs its task does not make: {', '.join(sorted(missing))}")
        return {name: array for name, array in feeds.items() if name in self._wanted}

    def _finished(self, ready: Sequence[Ready], ran: Ran) -> None:
        self._ran(ran)
        _deliver(ready)

    def _failed(self, entries: Sequence[Entry], ran: Ran) -> None:
        self._ran(ran)
        if ran.error is not None:
            self._log.warning("batch failed", code=ran.error.code, error=ran.error.message, size=len(entries))
            for entry in entries:
                entry.sink.fail(entry.index, ran.error)


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
        entry.sink.deliver(entry.index, result, timing, final=final)


def _taxonomy(error: Exception, doing: str) -> TidelineError:
    if isinstance(error, TidelineError):
        return error
    return Corrupt(f"the program failed to {doing}: {type(error).__name__}: {str(error)[:300]}")
