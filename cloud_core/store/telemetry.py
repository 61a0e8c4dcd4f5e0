"""Samples from devices, once each by (device, epoch, seq), however often they are sent."""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from cloud_core.store import tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import changed, insert, text_of
from shared.protocol.telemetry import Sample

_T = tables.telemetry


async def store(connection: Connection, tenant: str, device: str, *, epoch: int, samples: Sequence[Sample]) -> int:
    """Keep the samples that are new; how many were. The caller makes sure that the device exists."""
    new = 0
    for sample in samples:
        statement = (
            insert(connection, _T)
            .values(
                tenant=tenant,
                device=device,
                epoch=epoch,
                seq=sample.seq,
                ended_at=sample.ended_at,
                sample=text_of(sample),
            )
            .on_conflict_do_nothing()
        )
        new += await changed(connection, statement)
    return new


async def watermark(connection: Connection, tenant: str, device: str, *, epoch: int) -> int | None:
    """The highest seq of `epoch` that is stored; None for none."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.device == device, _T.c.epoch == epoch)
    found: int | None = (await connection.execute(sa.select(sa.func.max(_T.c.seq)).where(own))).scalar_one()
    return found


async def since(
    connection: Connection, tenant: str, *, ended_after: float, device: str | None = None, limit: int = 1000
) -> list[tuple[str, Sample]]:
    """(device, sample) of a tenant, newest first."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.ended_at > ended_after)
    if device is not None:
        own = sa.and_(own, _T.c.device == device)
    statement = sa.select(_T.c.device, _T.c.sample).where(own).order_by(_T.c.ended_at.desc(), _T.c.seq.desc())
    rows = (await connection.execute(statement.limit(limit))).all()
    return [(name, msgspec.json.decode(text, type=Sample)) for name, text in rows]


async def trim(connection: Connection, *, before: float) -> None:
    """Forget samples that ended before `before`."""
    await connection.execute(sa.delete(_T).where(_T.c.ended_at < before))
