"""Garbage collection: chunks that nothing needs any more leave their store.

Level-triggered: every pass lists what is there and reads what is needed; nothing is remembered, so a crash costs nothing. Why it
never takes what a version needs, whoever publishes at the same moment:

* removing is done in a write transaction that has the tenant to itself among those that publish in it (`tenants.hold`), and what
  is needed is read again within it;
* publishing holds the tenant too and looks there whether its chunks are all here (`publication.publish`). So either the version is
  seen here, or the publisher sees that chunks are gone and brings them again;
* chunks that were put lately stay, so that an upload that goes on for hours finds what it brought.
"""

import asyncio
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.decide.spare_chunks import GRACE_S, Amount, Kept, Survey
from cloud_core.store import tenants
from cloud_core.store.chunk_stores import ChunksOf
from cloud_core.store.database import read, write
from cloud_core.store.needed_chunks import Known, looked_over, needed
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Transient

EVERY_S = 3600.0
BATCH = 100
"""Chunks removed in one transaction: others wait for it."""


class CollectMetrics:
    """What is counted."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.removed = Counter("tideline_chunks_collected", "Chunks removed that nothing needed.", registry=registry)
        self.freed = Counter("tideline_chunk_bytes_collected", "Bytes they took in their store.", registry=registry)
        self.failed = Counter("tideline_chunk_collections_failed", "Passes that did not end.", registry=registry)
        names = ("tideline_chunks", "Chunks in store at the last pass."), ("tideline_chunk_bytes", "Bytes they take.")
        self._chunks, self._bytes = (Gauge(name, text, ["state"], registry=registry) for name, text in names)

    def found(self, surveys: Sequence[Survey]) -> None:
        """What all tenants' stores held."""
        for state, amounts in (
            ("needed", [one.needed for one in surveys]),
            ("young", [one.young for one in surveys]),
            ("spare", [one.collectable for one in surveys]),
        ):
            self._chunks.labels(state).set(sum(amount.chunks for amount in amounts))
            self._bytes.labels(state).set(sum(amount.bytes for amount in amounts))


class Collect:
    """Owner of the rhythm."""

    def __init__(
        self,
        engine: AsyncEngine,
        chunks: ChunksOf,
        *,
        metrics: CollectMetrics,
        clock: Clock,
        log: Log,
        grace: float = GRACE_S,
    ) -> None:
        self._engine = engine
        self._chunks = chunks
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._grace = grace

    async def run(self) -> None:
        """For ever; first a while after the start, when there is most to do for everybody."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.collect_all()
            except Transient as error:
                self._metrics.failed.inc()
                self._log.warning("chunks not collected", error=error.message)

    async def collect_all(self) -> None:
        """One pass over every tenant.

        Raises:
            Transient: the database or a store is away; what was removed is removed.

        """
        async with read(self._engine) as connection:
            every = await tenants.every_name(connection)
        self._metrics.found([await self.collect(tenant) for tenant in every])

    async def collect(self, tenant: str) -> Survey:
        """One pass over one tenant; what its store held before.

        Raises:
            Transient: as `collect_all`.

        """
        store, known = self._chunks(tenant), Known()
        found = await looked_over(self._engine, store, tenant, now=self._clock.wall(), grace=self._grace, known=known)
        freed = Amount()
        for start in range(0, len(found.spare), BATCH):
            gone = await self._remove(tenant, found.spare[start : start + BATCH], known)
            freed = Amount(freed.chunks + len(gone), freed.bytes + sum(one.stored for one in gone))
        await asyncio.to_thread(store.discard_unfinished, older_than=self._clock.wall() - self._grace)
        if freed.chunks:
            self._log.info("chunks collected", tenant=tenant, chunks=freed.chunks, bytes=freed.bytes)
        return found

    async def _remove(self, tenant: str, spare: Sequence[Kept], known: Known) -> list[Kept]:
        async with write(self._engine) as connection:
            await tenants.hold(connection, tenant, alone=True)
            still = await needed(connection, tenant, known)
            gone = [one for one in spare if one.digest not in still]
            removing = asyncio.ensure_future(
                asyncio.to_thread(self._chunks(tenant).delete, [one.digest for one in gone])
            )
            try:
                await asyncio.shield(removing)
            except asyncio.CancelledError:
                # The transaction ends when the thread has: a publisher may come in then, and not before.
                await asyncio.wait({removing})
                raise
        self._metrics.removed.inc(len(gone))
        self._metrics.freed.inc(sum(one.stored for one in gone))
        return gone
