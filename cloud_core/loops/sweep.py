"""Sweep: who has fallen silent is lost, who is heard again is there, and what has been kept long enough goes."""

import asyncio
from collections import Counter

from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.decide.liveness import Presence, classify
from cloud_core.loops.metrics import LoopMetrics
from cloud_core.store import events, history, idempotency, outbox, presence, telemetry
from cloud_core.store.database import read, write
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Transient

EVERY_S = 5.0
TRIM_EVERY_S = 600.0
DAY_S = 86400.0
KEEP_TELEMETRY_S = 7 * DAY_S
KEEP_EVENTS_S = 7 * DAY_S
KEEP_SENT_S = DAY_S
KEEP_ANSWERS_S = DAY_S
"""Retention. Answers to idempotent requests are kept a day, as most APIs promise."""


class Sweep:
    """Owner of the rhythm."""

    def __init__(self, engine: AsyncEngine, *, lost_after: float, metrics: LoopMetrics, clock: Clock, log: Log) -> None:
        """`lost_after`: seconds of silence after which a device counts as gone."""
        self._engine = engine
        self._lost_after = lost_after
        self._metrics = metrics
        self._clock = clock
        self._log = log

    async def run(self) -> None:
        """For ever."""
        trim_at = self._clock.monotonic()
        while True:
            try:
                await self.judge()
                if self._clock.monotonic() >= trim_at:
                    await self.trim()
                    trim_at = self._clock.monotonic() + TRIM_EVERY_S
            except Transient as error:
                self._log.warning("not swept", error=error.message)
            await asyncio.sleep(EVERY_S)

    async def judge(self) -> None:
        """Record who is lost or found, and count everybody."""
        now = self._clock.wall()
        async with write(self._engine) as connection:
            lost = await presence.lose_silent(connection, before=now - self._lost_after, now=now)
            found = await presence.find_heard(connection, now=now)
        for tenant, device in lost:
            self._log.info("device lost", tenant=tenant, device=device)
        for tenant, device in found:
            self._log.info("device found", tenant=tenant, device=device)
        async with read(self._engine) as connection:
            rows = await presence.everyone(connection)
        states = Counter(
            classify(
                born_epoch=row.epoch,
                born_at=row.born_at,
                died_at=row.died_at,
                last_seen=row.last_seen,
                now=now,
                lost_after=self._lost_after,
            ).state
            for row in rows
        )
        for state in Presence:
            self._metrics.devices.labels(state.value).set(states[state])

    async def trim(self) -> None:
        """Remove what was kept long enough, each in its own transaction so that nobody waits long."""
        now = self._clock.wall()
        for forget, kept in (
            (telemetry.trim, KEEP_TELEMETRY_S),
            (events.trim, KEEP_EVENTS_S),
            (outbox.trim, KEEP_SENT_S),
            (idempotency.trim, KEEP_ANSWERS_S),
        ):
            async with write(self._engine) as connection:
                await forget(connection, before=now - kept)
        async with write(self._engine) as connection:
            await history.trim(connection, now=now)
