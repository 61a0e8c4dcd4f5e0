"""Who watches the fleet live: bounded per tenant, and presence counted once for all of them."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.decide.liveness import Presence, classify
from cloud_core.store import presence
from cloud_core.store.database import read
from cloud_core.store.presence import Looks
from shared.io.clock import Clock
from shared.protocol.errors import Overloaded

MOST = 50
"""Streams of one tenant and process; each looks into the database every few seconds."""
PRESENCE_S = 5.0
"""A count this young is told again: with ten thousand devices it is not free."""
RETRY_S = 10.0


class Watchers:
    """Owner of the streams' number and of what was last counted."""

    def __init__(self, engine: AsyncEngine, *, lost_after: float, clock: Clock) -> None:
        """`lost_after`: seconds of silence after which a device counts as gone."""
        self._engine = engine
        self._lost_after = lost_after
        self._clock = clock
        self._watching: Counter[str] = Counter()
        self._counted: dict[str, tuple[float, Mapping[str, int]]] = {}
        self._counting = asyncio.Lock()

    @contextmanager
    def watching(self, tenant: str) -> Iterator[None]:
        """One stream more, until the block ends.

        Raises:
            Overloaded: the tenant has as many as it may have.

        """
        if self._watching[tenant] >= MOST:
            raise Overloaded(f"{MOST} live streams are open already", retry_after=RETRY_S)
        self._watching[tenant] += 1
        try:
            yield
        finally:
            self._watching[tenant] -= 1
            if not self._watching[tenant]:
                del self._watching[tenant]
                self._counted.pop(tenant, None)

    async def presence(self, tenant: str) -> Mapping[str, int]:
        """How many devices are online, stale, lost, or were never there.

        Raises:
            Transient: the database cannot answer now.

        """
        async with self._counting:  # the others of the tenant wait for the first, and are told what it counted
            at, counted = self._counted.get(tenant, (float("-inf"), {}))
            if self._clock.monotonic() - at < PRESENCE_S:
                return counted
            async with read(self._engine) as connection:
                rows = await presence.of_tenant(connection, tenant)
            counted = await asyncio.to_thread(self._count, rows, self._clock.wall())
            self._counted[tenant] = self._clock.monotonic(), counted
            return counted

    def _count(self, rows: Looks, now: float) -> Mapping[str, int]:
        states = Counter(
            classify(
                born_epoch=epoch, born_at=born_at, died_at=died_at, last_seen=last_seen, now=now,
                lost_after=self._lost_after,
            ).state
            for epoch, born_at, died_at, last_seen in rows
        )  # fmt: skip
        return {state.value: states[state] for state in Presence}
