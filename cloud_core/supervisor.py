"""One machine's control plane as a tree of processes: started in order, restarted with backoff, stopped in order.

Invariants:

* no child outlives the supervisor: each holds the reading end of a pipe (`LIFELINE`) that closes when the supervisor ends,
  however it ends, and a new supervisor waits for, then kills, what an earlier one left behind;
* a child that ends is started again, after the delay `decide.restart` names; nobody waits for anybody for ever;
* stopping goes stage by stage: who takes requests first, the broker last; SIGTERM, a time-out, SIGKILL;
* `supervisor.json` in the data folder says what runs, durably, for people and programs.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from cloud_core.announced import announced
from cloud_core.decide import restart as restarts
from shared.io.clock import Clock
from shared.io.durable import write_durably
from shared.io.logs import Log
from shared.io.program import LIFELINE
from shared.protocol.envelope import decoded
from shared.protocol.errors import Refused

STATE_FILE = "supervisor.json"


class ChildSpec(NamedTuple):
    """One child. Lower `start` stages start first, lower `stop` stages stop first; `grace` is seconds from SIGTERM to SIGKILL.

    `announces`: it writes `run/<name>.json` once it listens, and the next start stage waits a moment for that.
    """

    name: str
    argv: tuple[str, ...]
    start: int = 0
    stop: int = 0
    grace: float = 10.0
    announces: bool = True


class ChildState(msgspec.Struct, frozen=True, kw_only=True):
    """One child as `supervisor.json` shows it. `created` is the kernel's start time of `pid`: together they are one process."""

    pid: int | None = None
    created: float | None = None
    url: str | None = None
    restarts: int = 0
    last_exit: int | None = None


class SupervisorState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of `supervisor.json`; `started_at` is Unix seconds."""

    pid: int
    started_at: float
    children: dict[str, ChildState] = {}


class Timing(NamedTuple):
    """Seconds: how long a start stage is waited for, how long leftovers are, and how often announcements are looked at."""

    start_wait: float = 5.0
    leftover_wait: float = 12.0
    look: float = 0.5


class Supervisor:
    """Owns the child processes. `app.py` builds it; `run_child` per child and `keep_state` are tasks of its program."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        data: Path,
        environment: Mapping[str, str],
        log: Log,
        clock: Clock,
        limits: restarts.Limits = restarts.Limits(),  # noqa: B008 - frozen
        timing: Timing = Timing(),  # noqa: B008 - frozen
    ) -> None:
        self.specs = tuple(specs)
        self._data = data
        self._environment = dict(environment)
        self._log = log
        self._clock = clock
        self._limits = limits
        self._timing = timing
        self._draw = random.Random()  # noqa: S311 - jitter, not a secret
        self._read_end, self._write_end = os.pipe()
        self._children = {spec.name: ChildState() for spec in specs}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._started_at = clock.wall()
        self._written: SupervisorState | None = None

    @property
    def stop_stages(self) -> tuple[int, ...]:
        """The stages of stopping, in order."""
        return tuple(sorted({spec.stop for spec in self.specs}))

    def stage_timeout(self, stage: int) -> float:
        """Seconds a stage of stopping may take."""
        return max(spec.grace for spec in self.specs if spec.stop == stage) + 2.0

    async def clear_leftovers(self) -> None:
        """Wait for the children of an earlier supervisor to end, as they do by themselves; kill those that do not."""
        left = [process for process in map(_same_process, self._recorded()) if process is not None]
        if not left:
            return
        self._log.warning("waiting for children of an earlier supervisor", pids=[process.pid for process in left])
        _, alive = await asyncio.to_thread(psutil.wait_procs, left, self._timing.leftover_wait)
        for process in alive:
            self._log.warning("killing a child of an earlier supervisor", pid=process.pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await asyncio.to_thread(psutil.wait_procs, alive, 5.0)

    async def run_child(self, spec: ChildSpec) -> None:
        """Keep one child running until `stop`."""
        await self._wait_for_stages_before(spec.start)
        failures = 0
        while not self._stopping.is_set():
            began = self._clock.monotonic()
            code = await self._run_once(spec)
            if self._stopping.is_set():
                return
            ran_for = self._clock.monotonic() - began
            decision = restarts.restart(failures, ran_for=ran_for, u=self._draw.random(), limits=self._limits)
            failures = decision.failures
            self._log.warning(
                "child ended",
                child=spec.name,
                status=code,
                ran_for=round(ran_for, 3),
                delay=round(decision.delay, 3),
                failures=failures,
                reason=decision.reason.value,
            )
            state = self._children[spec.name]
            self._set(spec.name, pid=None, created=None, url=None, last_exit=code, restarts=state.restarts + 1)
            await asyncio.sleep(decision.delay)

    async def stop(self, stage: int) -> None:
        """End the children of one stage; from the first call on nothing is started again."""
        self._stopping.set()
        async with asyncio.TaskGroup() as group:
            for spec in self.specs:
                if spec.stop == stage and spec.name in self._processes:
                    group.create_task(self._end(spec, self._processes[spec.name]), name=f"stop:{spec.name}")

    async def keep_state(self) -> None:
        """Keep `supervisor.json` up to date."""
        while True:
            self._changed.clear()
            await self.write_state()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.look):
                    await self._changed.wait()

    async def write_state(self) -> None:
        """Write `supervisor.json` where it changed; a disk that is full must not take the children down."""
        async with self._writing:
            state = await asyncio.to_thread(self._state)
            if state == self._written:
                return
            data = msgspec.json.format(msgspec.json.encode(state))
            try:
                await asyncio.to_thread(write_durably, self._data / STATE_FILE, data)
            except OSError as error:
                self._log.warning("state not written", file=STATE_FILE, error=str(error))
            else:
                self._written = state

    async def _wait_for_stages_before(self, stage: int) -> None:
        waited = [spec for spec in self.specs if spec.start < stage and spec.announces]
        deadline = self._clock.monotonic() + self._timing.start_wait
        while self._clock.monotonic() < deadline and not self._stopping.is_set():
            if all(self._listens(spec.name) for spec in waited):
                return
            await asyncio.sleep(0.05)

    async def _run_once(self, spec: ChildSpec) -> int:
        try:
            # A session of its own: Ctrl-C in a terminal reaches the supervisor alone, which then stops in order.
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                env=self._environment | {LIFELINE: str(self._read_end)},
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(self._read_end,),
                start_new_session=True,
            )
        except OSError as error:
            self._log.error("child cannot be started", child=spec.name, error=str(error))
            return -1
        self._processes[spec.name] = process
        self._set(spec.name, pid=process.pid, created=_created(process.pid), url=None)
        self._log.info("child started", child=spec.name, pid=process.pid)
        if self._stopping.is_set():
            # `stop` passed by while the process was being made.
            await self._end(spec, process)
        code = await process.wait()
        self._processes.pop(spec.name, None)
        return code

    async def _end(self, spec: ChildSpec, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(spec.grace):
                await process.wait()
        except TimeoutError:
            self._log.warning("child killed", child=spec.name, pid=process.pid, grace=spec.grace)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        self._log.info("child stopped", child=spec.name, status=process.returncode)
        self._set(spec.name, pid=None, created=None, url=None, last_exit=process.returncode)

    def _listens(self, name: str) -> bool:
        record = announced(self._data / "run", name)
        return record is not None and record.pid == self._children[name].pid

    def _set(self, name: str, **changes: object) -> None:
        self._children[name] = msgspec.structs.replace(self._children[name], **changes)
        self._changed.set()

    def _state(self) -> SupervisorState:
        children = {}
        for name, child in self._children.items():
            record = announced(self._data / "run", name)
            url = record.url if record is not None and record.pid == child.pid else None
            children[name] = msgspec.structs.replace(child, url=url)
        return SupervisorState(pid=os.getpid(), started_at=self._started_at, children=children)

    def _recorded(self) -> tuple[ChildState, ...]:
        try:
            return tuple(decoded((self._data / STATE_FILE).read_bytes(), SupervisorState).children.values())
        except (OSError, Refused):
            return ()


def _created(pid: int) -> float | None:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _same_process(child: ChildState) -> psutil.Process | None:
    """The process a record means; None if it ended, even where its number was given to another since."""
    if child.pid is None or child.created is None:
        return None
    try:
        process = psutil.Process(child.pid)
        return process if abs(process.create_time() - child.created) < 1.0 else None
    except psutil.Error:
        return None
