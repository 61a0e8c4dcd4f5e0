"""Measuring, while nobody asks anything, how the versions that are served run best here.

Invariants:

* a version is served at once, however it is to run, and measured later;
* never beside live traffic: a request that comes in ends the process that measures before anything else is done with it; what was
  found until then is kept, and the run goes on from there once it has been quiet again;
* a version is measured once on a machine: what was found, be it that nothing can be recommended, is on disk;
* what is served runs as was said or found last, whoever found it: it is looked at again every `LOOK_S`, and changed without a gap.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple, Protocol

import msgspec

from edge_agent.control.arrangements import Arrangements
from edge_agent.control.subjects import Subject, measured, space_of
from edge_agent.decide.arranging import Source
from edge_agent.decide.idleness import LOOK_AGAIN_S, Because, Quiet, may_measure
from edge_agent.serving.activity import Activity
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Corrupt, Transient
from shared.serving.decide.tuned import Record
from shared.serving.decide.tuning import Progress
from shared.serving.decide.ways import Space
from shared.serving.tuning.turn import turn

LOOK_S = 60.0
"""A run by hand is noticed after this long."""


class State(StrEnum):
    """What the tuner does."""

    WAITING = "waiting"
    MEASURING = "measuring"
    DONE = "done"


class Doing(msgspec.Struct, frozen=True, kw_only=True):
    """What it does, with which version, and what it waits for."""

    state: State = State.DONE
    model: str | None = None
    because: Because | None = None


class Surroundings(NamedTuple):
    """What the tuner sees of the agent: what is served, whether it converges, how much of the processor anybody uses.

    `used` takes a moment to find out. `follow` lets a version run as was said or found last.
    """

    served: Callable[[], Awaitable[Sequence[Subject]]]
    follow: Callable[[Subject], Awaitable[None]]
    converging: Callable[[], bool]
    used: Callable[[], Awaitable[float]]


class Measure(Protocol):
    """As `subjects.measured`."""

    def __call__(
        self,
        subject: Subject,
        arrangements: Arrangements,
        *,
        memory_bytes: int,
        progress: Progress,
        keep: Callable[[Progress], None],
        now: Callable[[], float],
    ) -> Coroutine[None, None, Record]:
        """What was found."""
        ...


class Tuner:
    """Owner of what interrupted runs found. Loop's thread only."""

    def __init__(
        self,
        arrangements: Arrangements,
        activity: Activity,
        around: Surroundings,
        *,
        measures: bool,
        after_s: float,
        most_used: float,
        memory_bytes: int,
        changed: Callable[[], None],
        clock: Clock,
        log: Log,
        measure: Measure = measured,
    ) -> None:
        """`measures`: not only follow what others found. `after_s` and `most_used` as of `may_measure`.

        `changed` is called when there is a new record; `measure` is what tests put in the place of a real run.
        """
        self.doing = Doing()
        self._arrangements = arrangements
        self._activity = activity
        self._around = around
        self._measures = measures
        self._run = measure
        self._after_s = after_s
        self._most = most_used
        self._memory_bytes = memory_bytes
        self._changed = changed
        self._clock = clock
        self._log = log
        self._progress: dict[tuple[str, Space], Progress] = {}
        self._given_up: set[tuple[str, Space]] = set()

    async def run(self) -> None:
        """For ever."""
        while True:
            self._arrangements.news.clear()
            try:
                subject = await self._next(await self._followed())
            except Transient as error:
                # A disk that fails for now: what is served is served.
                self._log.warning("not looked at", error=error.message)
                subject = None
            if subject is None:
                self.doing = Doing()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._arrangements.news.wait()
                continue
            await self._activity.idle()
            used = await self._around.used()
            # Nothing is awaited from here until the run can be interrupted: no request slips in between.
            quiet = Quiet(quiet_s=self._activity.quiet_s, used=used, converging=self._around.converging())
            wait = may_measure(quiet, after_s=self._after_s, most=self._most)
            if wait is None:
                await self._attempt(subject)
                continue
            self.doing = Doing(state=State.WAITING, model=subject.label, because=wait.reason)
            await asyncio.sleep(wait.seconds)

    async def _followed(self) -> Sequence[Subject]:
        """What is served, all of it running as was said or found last."""
        await self._arrangements.refresh()
        served = await self._around.served()
        for subject in served:
            await self._around.follow(subject)
        return served

    async def _next(self, served: Sequence[Subject]) -> Subject | None:
        """A version that is served, and nobody knows how it runs best here."""
        for subject in served if self._measures else ():
            how = self._arrangements.loaded.get((subject.manifest.name, subject.manifest.version))
            if how is not None and how.source is Source.TOLD:
                # Others measured it on their devices so that this one need not.
                continue
            space = space_of(subject, self._arrangements)
            key = (subject.digest, space)
            if space.programs and key not in self._given_up and self._arrangements.found(subject.digest, space) is None:
                return subject
        return None

    async def _attempt(self, subject: Subject) -> None:
        with turn() as ours:
            if ours:
                await self._measure(subject)
                return
        self.doing = Doing(state=State.WAITING, model=subject.label, because=Because.ANOTHER_RUN)
        await asyncio.sleep(LOOK_AGAIN_S)

    async def _measure(self, subject: Subject) -> None:
        key = (subject.digest, space_of(subject, self._arrangements))
        self.doing = Doing(state=State.MEASURING, model=subject.label)
        self._log.info("measuring", model=subject.label, digest=subject.digest)

        def keep(progress: Progress) -> None:
            self._progress[key] = progress

        run = asyncio.create_task(
            self._run(
                subject,
                self._arrangements,
                memory_bytes=self._memory_bytes,
                progress=self._progress.get(key, Progress()),
                keep=keep,
                now=self._clock.wall,
            ),
            name="measure how it runs",
        )

        def interrupt() -> None:
            run.cancel()

        try:
            with self._activity.interrupting(interrupt):
                await asyncio.wait({run})
        finally:
            run.cancel()
            with suppress(asyncio.CancelledError, Corrupt, Transient):
                await run
        if run.cancelled():
            self._log.info("measuring was interrupted", model=subject.label)
            return
        await self._ended(key, run)

    async def _ended(self, key: tuple[str, Space], run: asyncio.Task[Record]) -> None:
        try:
            record = run.result()
            await asyncio.to_thread(self._arrangements.records.add, record)
        except (Corrupt, Transient, OSError) as error:
            # It is served all the same. Not again before the next start: it would fail again.
            self._given_up.add(key)
            self._log.warning("not measured", digest=key[0], error=str(error))
            return
        way = record.way
        self._log.info(
            "measured",
            digest=record.digest,
            reason=record.reason,
            seconds=round(record.spent, 1),
            variant=way.variant if way is not None else None,
            arrangement=msgspec.to_builtins(way.arrangement) if way is not None else None,
        )
        self._progress.pop(key, None)
        await self._arrangements.refresh()
        self._changed()


def details_of(arrangements: Arrangements, tuner: Tuner | None) -> Mapping[str, object]:
    """What `/health` tells of how models run here."""
    return {
        "doing": tuner.doing if tuner is not None else None,
        "machine": arrangements.machine,
        "models": [
            {
                "name": name,
                "version": version,
                "source": how.source,
                "arrangement": how.arrangement,
                "ignored": how.ignored,
            }
            for (name, version), how in sorted(arrangements.loaded.items())
        ],
        "found": [summary_of(record) for record in arrangements.known],
    }


def summary_of(record: Record) -> dict[str, object]:
    """A record in short."""
    best = record.best
    return {
        "name": record.name,
        "version": record.version,
        "digest": record.digest,
        "reason": record.reason,
        "variant": record.way.variant if record.way is not None else None,
        "arrangement": record.way.arrangement if record.way is not None else None,
        "milliseconds": {n: round(each * 1000, 3) for n, each in best.seconds.items()} if best is not None else {},
        "at": record.at,
        "out": [
            {"variant": row.way.variant, "arrangement": row.way.arrangement, "code": row.out, "detail": row.detail}
            for row in record.rows
            if row.out
        ],
    }
