"""Keeps the fleet and the catalog what the database says, twice a second; a database that is away leaves them as they are."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.gateway.catalog import GatewayCatalog
from cloud_core.gateway.fleet import Fleet
from cloud_core.store import serving
from cloud_core.store.database import read
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Transient

EVERY_S = 0.5


class Watch:
    """Reads levels and hands them over; `has_looked` once it could."""

    def __init__(self, database: AsyncEngine, fleet: Fleet, catalog: GatewayCatalog, *, log: Log, clock: Clock) -> None:
        self._database = database
        self._fleet = fleet
        self._catalog = catalog
        self._log = log
        self._clock = clock
        self._reading = asyncio.Lock()
        self.has_looked = False
        self.error = "the registry was not read yet"

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Read once; several callers at a time share the reading."""
        if self._reading.locked():
            async with self._reading:
                return
        async with self._reading:
            try:
                await self._look()
            except Transient as error:
                if not self.error:
                    self._log.warning("the registry cannot be read; serving on", error=error.message)
                self.error = error.message
                return
            if self.error and self.has_looked:
                self._log.info("the registry can be read again")
            self.has_looked, self.error = True, ""

    async def _look(self) -> None:
        async with read(self._database) as connection:
            rows = await serving.replicas(connection)
            versions = await serving.published(connection)
            manifests = await serving.manifests(connection, self._catalog.unknown(versions))
        for name in self._fleet.observe(rows, now=self._clock.monotonic()):
            self._log.warning("replica stopped reporting", replica=name)
        self._catalog.observe(versions, manifests)
