"""A tenant that publishes, deletes and assigns, and a store whose chunks can be aged: what garbage collection is tried on."""

import hashlib
import os
import time
from pathlib import Path

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.loops.collect import Collect, CollectMetrics
from cloud_core.store import devices, generations, publication, tenants, versions
from cloud_core.store.chunk_stores import open_chunks
from cloud_core.store.database import write
from cloud_core.store.generations import Stored
from shared.bundle.manifest import Manifest, canonical, digest_of
from shared.io.clock import SystemClock
from shared.protocol.desired import Order
from shared.protocol.reported import Convergence, ModelReport, Reported
from tests.cloud_core.broker.brokers import LOG

TENANT = "default"
GRACE = 3600.0


class Shelf:
    """One data folder and its registry."""

    def __init__(self, engine: AsyncEngine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.chunks_of = open_chunks("folder", folder)
        self.registry = CollectorRegistry()
        self.loop = Collect(
            engine,
            self.chunks_of,
            metrics=CollectMetrics(self.registry),
            clock=SystemClock(),
            log=LOG,
            grace=GRACE,
        )

    @property
    def held(self) -> set[str]:
        return {one.digest for one in self.chunks_of(TENANT).list()}

    def put(self, digest: str, data: bytes, tenant: str = TENANT) -> None:
        self.chunks_of(tenant).put(digest, data)

    def age(self) -> None:
        """Everything was put longer ago than the grace."""
        old = time.time() - GRACE - 60
        for path in self.folder.rglob("objects/*/*"):
            os.utime(path, (old, old))

    async def publish(self, manifest: Manifest, tenant: str = TENANT) -> str:
        """Make the version; its digest. Raises Refused where a chunk is not here."""
        data = canonical(manifest)
        async with write(self.engine) as connection:
            await tenants.create(connection, tenant, now=1.0)
            await publication.publish(
                connection,
                tenant,
                publication.prepare(data),
                self.chunks_of(tenant),
                published_by="test",
                now=1.0,
            )
        return digest_of(data)

    async def delete(self, manifest: Manifest) -> None:
        async with write(self.engine) as connection:
            await versions.delete(connection, TENANT, manifest.name, manifest.version, now=2.0)

    async def device(self, name: str) -> None:
        async with write(self.engine) as connection:
            await tenants.create(connection, TENANT, now=1.0)
            await devices.create(
                connection, TENANT, name, description="", enrol_token_hash=name, enrol_expires_at=9e9, now=1.0
            )

    async def generation(self, device: str, number: int, digest: str) -> None:
        """A generation that names a manifest."""
        async with write(self.engine) as connection:
            await generations.add(
                connection,
                Stored(
                    tenant=TENANT, device=device, epoch=1, number=number, content_digest=digest,
                    payload=f'{{"models":[{{"digest":"{digest}"}}]}}', key_id="k", signature="s", why="test", created_at=1.0,
                ),
            )  # fmt: skip

    async def report(self, device: str, seq: int, digest: str) -> None:
        """The device says it runs this."""
        model = ModelReport(name="m", version="1.0.0", digest=digest, active=True)
        reported = Reported(
            epoch=1, seq=seq, at=1.0, applied=Order(1, 1), target=None, convergence=Convergence.APPLIED, models=(model,)
        )
        async with write(self.engine) as connection:
            assert await devices.record_report(connection, TENANT, device, reported, now=1.0)


def chunks(manifest: Manifest) -> set[str]:
    return {chunk.digest for file in manifest.files for chunk in file.chunks}


def put(here: Shelf, pieces: list[bytes], tenant: str = TENANT) -> None:
    for piece in pieces:
        here.put(hashlib.sha256(piece).hexdigest(), piece, tenant)
