"""The life of every process: named background tasks in one TaskGroup, and an ordered shutdown.

Invariants: a task that ends by an exception ends the program, and a supervisor restarts it; on SIGTERM, SIGINT or the parent's
death the stops run in the order they were added (stop accepting, drain, say goodbye), each under its own time-out, and only
then are the tasks cancelled.
"""

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

import uvloop

from shared.io.logs import Log

LIFELINE = "TIDELINE_LIFELINE_FD"
"""Set by a supervisor, never by a person: a pipe whose other end closes when the supervisor is gone, however it went."""


class _Stop(NamedTuple):
    name: str
    run: Callable[[], Awaitable[None]]
    timeout: float


class Program:
    """Holds what runs and how it stops; built by `app.py`."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.stopping = asyncio.Event()
        self._tasks: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = []
        self._stops: list[_Stop] = []

    def task(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `run()` in the background until shutdown; it may also return when its work is done."""
        self._tasks.append((name, run))

    def on_stop(self, name: str, run: Callable[[], Awaitable[None]], *, timeout: float = 5.0) -> None:
        """At shutdown, await `run()` for at most `timeout` seconds, after the stops added before it."""
        self._stops.append(_Stop(name, run, timeout))

    async def run(self, *, lifeline: int | None = None) -> None:
        """Run until a signal, the end of the parent, or a crash. Raises the crash."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        if lifeline is not None:
            loop.add_reader(lifeline, self.stopping.set)
        # What was built lives as long as the process: the collector need not go through it again and again, some 50 ms each time.
        gc.collect()
        gc.freeze()
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(run(), name=name) for name, run in self._tasks]
                await self.stopping.wait()
                self.log.info("stopping")
                for stop in self._stops:
                    await self._stop(stop)
                for task in running:
                    task.cancel()
        finally:
            if lifeline is not None:
                loop.remove_reader(lifeline)
        self.log.info("stopped")

    async def _stop(self, stop: _Stop) -> None:
        try:
            async with asyncio.timeout(stop.timeout):
                await stop.run()
        except TimeoutError:
            self.log.warning("stop timed out", step=stop.name, seconds=stop.timeout)
        except Exception:
            # One failing goodbye must not keep the next from being said.
            self.log.exception("stop failed", step=stop.name)


def execute(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main()` on uvloop to its end."""
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def lifeline_of(environment: dict[str, str]) -> int | None:
    """The inherited pipe, if a supervisor passed one."""
    text = environment.get(LIFELINE)
    if text is None:
        return None
    os.set_inheritable(int(text), False)
    return int(text)
