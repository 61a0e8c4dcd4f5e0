"""One program in memory: its session, a thread for each lane that runs it, and the loop's own lane beside them.

A version has one of these while it is resident, and for a moment two, when the program is made anew: both take from the same
queue, so no request notices.
"""

import asyncio
from collections.abc import Callable, Sequence

from shared.io.clock import Clock
from shared.io.logs import Log
from shared.serving.arrangement import Arrangement
from shared.serving.lanes.cores import Cores
from shared.serving.lanes.inline import Inline
from shared.serving.lanes.queue import BatchQueue
from shared.serving.lanes.worker import Ran, Worker
from shared.serving.sessions.session import Session
from shared.serving.tasks.task import Prepared, Task


class Lanes:
    """Loop's thread only. `inline` is there once it has started, for a program that may run on the loop's thread at all."""

    def __init__(
        self,
        name: str,
        *,
        session: Session,
        task: Task,
        queue: BatchQueue,
        arrangement: Arrangement,
        cores: Cores,
        clock: Clock,
        log: Log,
        ran: Callable[[Ran], None],
        rehearsal: Sequence[Prepared] = (),
    ) -> None:
        """`rehearsal` is computed once before the first batch, for nobody."""
        self.session = session
        self.inline: Inline | None = None
        self._beside: Session | None = None
        self._task = task
        self._queue = queue
        self._clock = clock
        self._ran = ran
        self._count = arrangement.lanes
        self._workers: list[Worker] = []
        self._ending: asyncio.Task[None] | None = None

        def worker(session: Session, number: int) -> Worker:
            return Worker(
                f"{name}/{number}",
                session=session,
                task=task,
                queue=queue,
                cores=cores,
                threads=arrangement.threads,
                clock=clock,
                log=log,
                ran=ran,
                rehearsal=rehearsal if number == 0 else (),
            )

        self._worker = worker

    async def start(self, *, inline: bool) -> None:
        """Load the program in the first lane's thread, and put the others beside it; `inline`: the loop's own too.

        Raises:
            Corrupt: it cannot be loaded.

        """
        for number in range(self._count):
            worker = self._worker(self.session if number == 0 else self.session.sibling(), number)
            self._workers.append(worker)
            await worker.start()
        if inline:
            self._beside = self.session.sibling()
            self.inline = Inline(self._beside, self._task, self._queue, self._clock, self._ran)

    def retire(self) -> None:
        """Take nothing more; what is being computed is finished, then the program's memory and its threads are given back."""
        for worker in self._workers:
            worker.retire()
        self.inline = None
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(), name="lanes end")

    async def ended(self) -> None:
        """Until every thread has ended, once they were retired."""
        if self._ending is not None:
            await asyncio.shield(self._ending)

    async def _end(self) -> None:
        await asyncio.gather(*(worker.ended() for worker in self._workers))
        self._let_go()

    async def stop(self) -> bool:
        """End what runs and close the queue; whether every thread ended in time."""
        ended = await asyncio.gather(*(worker.stop() for worker in self._workers))
        self._let_go()
        return all(ended)

    def _let_go(self) -> None:
        if self._beside is not None:
            self._beside.close()
        self.inline = self._beside = None
