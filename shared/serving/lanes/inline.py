"""Runs so short that handing them to a lane's thread would take longer: computed on the loop's thread, counted like any other.

Only where the fit says so, nothing else waits or runs, and no step-by-step generator is asked: the loop must never be held. The
fit is one of its own, over the running thread's processor time: on a lane's thread so short a run mostly waits for the interpreter.
"""

from collections.abc import Callable, Sequence

from shared.io.clock import Clock
from shared.protocol.errors import Corrupt, TidelineError
from shared.serving.answer import Result, Timing
from shared.serving.decide.cost import Cost, observed, predict
from shared.serving.lanes.queue import BatchQueue
from shared.serving.lanes.worker import Ran, faulty, fed, padded_tokens
from shared.serving.sessions.session import Feeds, Outputs, Session
from shared.serving.tasks.task import Prepared, Task

MOST_S = 50e-6
"""Longest fitted time of a run on the loop's thread."""
LEARNT = 16
"""Batches the fit must have seen: the first ones of a fresh program are no measure."""
TEACHES = 8
"""One run in so many teaches the fits: they change slowly, and learning takes as long as a small program."""


class Inline:
    """The loop's own lane of one version."""

    def __init__(
        self, session: Session, task: Task, queue: BatchQueue, clock: Clock, ran: Callable[[Ran], None]
    ) -> None:
        self.cost = Cost()
        self._turn = 0
        self._cpu = 0.0
        self._session = session
        self._task = task
        self._queue = queue
        self._clock = clock
        self._ran = ran
        self._wanted = frozenset(spec.name for spec in session.inputs)

    def learn(self, ran: Ran) -> None:
        """A batch was computed, here or by a lane."""
        if ran.whole:
            self.cost = observed(self.cost, ran.tokens, ran.cpu)

    def fits(self, prepared: Sequence[Prepared]) -> bool:
        """Whether `prepared` is short enough to be computed here, and nobody is in its way."""
        if self.cost.observations < LEARNT or not self._queue.is_quiet:
            return False
        if len(prepared) > 1:
            rows = sum(item.rows for item in prepared)
            if rows > self._queue.budget.rows or len({item.group for item in prepared}) > 1:
                return False
        return predict(self.cost, padded_tokens(prepared)) < MOST_S

    def run(self, prepared: Sequence[Prepared]) -> tuple[tuple[Result, ...], Timing]:
        """The results of `prepared`, one each.

        Raises:
            Refused, Transient, Corrupt: as a lane's run.

        """
        began = self._clock.monotonic()
        error: TidelineError | None = None
        try:
            results = self._results(prepared)
        except Exception as raised:
            error = faulty(raised, "run")
            raise error from raised
        finally:
            seconds = self._clock.monotonic() - began
            self._turn = (self._turn + 1) % TEACHES
            teaches = error is None and self._turn == 0
            size = len(prepared)
            self._ran(Ran(size, padded_tokens(prepared), seconds, (0.0,) * size, error, teaches, self._cpu))
        return results, Timing(compute=seconds)

    def _results(self, prepared: Sequence[Prepared]) -> tuple[Result, ...]:
        step = next(iter(self._task.steps(self._run_once, prepared)), ())
        results = tuple([result for result in step if result is not None])
        if len(results) != len(prepared):
            raise Corrupt("the program ended before every result was there")
        return results

    def _run_once(self, feeds: Feeds) -> Outputs:
        began = self._clock.monotonic()
        outputs = self._session.run(fed(feeds, self._wanted))
        self._cpu = self._clock.monotonic() - began
        return outputs
