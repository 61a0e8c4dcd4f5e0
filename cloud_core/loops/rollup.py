"""Rollup: samples become history, each once.

Invariants:

* a stage's cursor moves in the transaction that adds its samples to history: after a crash nothing is lost and nothing twice;
* a window is a function of the samples behind the cursor that lie in it, in whatever order they came: `recompute` makes the same
  windows anew from them;
* the fleet (tenants, groups) is rolled up often, devices alone seldom: what all share is little to write, what each has is much.
"""

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.decide.rollup import Cell, Key, added, cells_of, window_of
from cloud_core.loops.fleet_metrics import FleetMetrics
from cloud_core.store import control, history, serving, telemetry
from cloud_core.store.database import Connection, read, write
from cloud_core.store.history import DEVICE, GROUP, KEPT_S, TENANT, Place
from cloud_core.store.telemetry import Kept
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Transient

Owner = tuple[str, str]
"""Scope and name of whose history a sample counts in."""
AT_ONCE = 1000
"""Samples in one transaction, which others wait for."""
MOST_AT_A_TIME = 100
"""Transactions of one stage before the other has its turn."""
HOUR_S = 3600


class Stage(NamedTuple):
    """One pass over all samples: for which windows, for whom, and how often."""

    name: str
    scopes: frozenset[str]
    seconds: tuple[int, ...]
    every_s: float


FLEET = Stage("fleet", frozenset({TENANT, GROUP}), (10, 60, 3600), 2.0)
DEVICES = Stage("devices", frozenset({DEVICE}), (60, 3600), 30.0)


class Rolled(NamedTuple):
    """So many samples were added, and what they said by the shortest windows."""

    samples: int
    cells: Mapping[Place, Cell]


class Rollup:
    """Owner of the rhythm."""

    def __init__(
        self, engine: AsyncEngine, *, turn: asyncio.Lock, metrics: FleetMetrics, clock: Clock, log: Log
    ) -> None:
        """`turn`: shared with the ingest; SQLite has one writer, and who waits for it there waits without order."""
        self._engine = engine
        self._turn = turn
        self._metrics = metrics
        self._clock = clock
        self._log = log

    async def run(self) -> None:
        """For ever, one stage after the other: both write the same tables."""
        due = dict.fromkeys((FLEET, DEVICES), self._clock.monotonic())
        while True:
            for stage, at in due.items():
                if self._clock.monotonic() >= at:
                    await self._catch_up(stage)
                    due[stage] = self._clock.monotonic() + stage.every_s
            await asyncio.sleep(FLEET.every_s)

    async def roll_up(self, stage: Stage) -> int:
        """Add the next samples to history; how many there were.

        Raises:
            Transient: the database cannot do this now; nothing was added.

        """
        now = self._clock.wall()
        async with self._turn, write(self._engine) as connection:
            rolled = await roll_up(connection, stage, now=now)
            versions = await serving.published(connection) if stage is FLEET and rolled.samples else []
        if stage is FLEET:
            cells = [(place.key, cell) for place, cell in rolled.cells.items() if place.scope == TENANT]
            self._metrics.rolled_up(cells, published={(one.model, one.version) for one in versions})
        return rolled.samples

    async def _catch_up(self, stage: Stage) -> None:
        try:
            for _ in range(MOST_AT_A_TIME):
                if await self.roll_up(stage) < AT_ONCE:
                    break
            async with read(self._engine) as connection:
                come = await control.come_so_far(connection, stage.name)
                newest = await telemetry.newest_id(connection)
            self._metrics.behind(stage.name, max(0, newest - come))
        except Transient as error:
            self._log.warning("not rolled up", stage=stage.name, error=error.message)


async def roll_up(connection: Connection, stage: Stage, *, now: float, limit: int = AT_ONCE) -> Rolled:
    """Add up to `limit` samples behind the stage's cursor to history, and move it. In one write transaction."""
    cursor = await control.cursor(connection, stage.name)
    kept = await telemetry.after(connection, cursor, limit=limit)
    if not kept:
        return Rolled(0, {})
    # Off the event loop, which has messages to take meanwhile.
    found = await asyncio.to_thread(cells, kept, stage)
    for seconds, each in found.items():
        await history.add(connection, seconds, _since(each, now - KEPT_S[seconds]))
    await control.move_cursor(connection, stage.name, kept[-1].id)
    return Rolled(len(kept), found[stage.seconds[0]])


async def recompute(connection: Connection, tenant: str, *, start: int, end: int, now: float) -> None:
    """Make the windows of a tenant in [start, end) anew from the samples that are kept. In one write transaction.

    Both are whole hours; samples of all of it must still be there, or history loses what they said.
    """
    for stage in (FLEET, DEVICES):
        cursor = await control.cursor(connection, stage.name)
        kept = await telemetry.within(connection, tenant, start=start, end=end + HOUR_S, last=cursor)
        for seconds, each in (await asyncio.to_thread(cells, kept, stage)).items():
            await history.clear(connection, seconds, tenant, scopes=stage.scopes, start=start, end=end)
            inside = {place: cell for place, cell in each.items() if start <= place.started_at < end}
            await history.put(connection, seconds, _since(inside, now - KEPT_S[seconds]))


def cells(kept: Iterable[Kept], stage: Stage) -> Mapping[int, Mapping[Place, Cell]]:
    """What these samples add to history, by length of window.

    Samples are added up where they share most, longer windows from shorter ones: each is looked into once.
    """
    finest, *longer = stage.seconds
    alike: dict[tuple[str, tuple[Owner, ...], int], dict[Key, list[Cell]]] = {}
    for one in kept:
        parts = alike.setdefault((one.tenant, _owners(one, stage), window_of(one.sample, finest)), {})
        for key, cell in cells_of(one.sample).items():
            parts.setdefault(key, []).append(cell)
    owned: dict[Place, list[Cell]] = {}
    for (tenant, owners, window), by_key in alike.items():
        for key, each in by_key.items():
            whole = added(each)
            for scope, name in owners:
                owned.setdefault(Place(tenant, scope, name, window, key), []).append(whole)
    found = {finest: _added(owned)}
    for shorter, seconds in itertools.pairwise((finest, *longer)):
        parts_of: dict[Place, list[Cell]] = {}
        for place, cell in found[shorter].items():
            window = place.started_at // seconds * seconds
            parts_of.setdefault(place._replace(started_at=window), []).append(cell)
        found[seconds] = _added(parts_of)
    return found


def _added(parts: Mapping[Place, Sequence[Cell]]) -> dict[Place, Cell]:
    return {place: each[0] if len(each) == 1 else added(each) for place, each in parts.items()}


def _since(found: Mapping[Place, Cell], oldest: float) -> Mapping[Place, Cell]:
    """Those that are not so old that they would be forgotten at once."""
    return {place: cell for place, cell in found.items() if place.started_at > oldest}


def _owners(kept: Kept, stage: Stage) -> tuple[Owner, ...]:
    if DEVICE in stage.scopes:
        return ((DEVICE, kept.device),)
    return ((TENANT, ""), *((GROUP, name) for name in kept.groups))
