"""Desired state: signed generations per device, the newest by (epoch, number) is the level."""

import msgspec
import sqlalchemy as sa

from cloud_core.store import events, outbox, tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import every, first, text_of
from shared.protocol.desired import KIND, Order, SignedGeneration

_T = tables.generations
_KEEP = 20
"""Generations kept per device, for people who ask what was."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One generation as it was signed; `payload` is the exact text."""

    tenant: str
    device: str
    epoch: int
    number: int
    content_digest: str
    payload: str
    key_id: str
    signature: str
    why: str
    created_at: float

    @property
    def order(self) -> Order:
        """What generations are compared by."""
        return Order(self.epoch, self.number)

    @property
    def signed(self) -> SignedGeneration:
        """What travels."""
        return SignedGeneration(key_id=self.key_id, signature=self.signature, payload=self.payload)


async def add(connection: Connection, generation: Stored) -> None:
    """Store a generation and owe it to its device, with an event; old ones beyond a few are forgotten."""
    tenant, device = generation.tenant, generation.device
    await connection.execute(sa.insert(_T).values(**msgspec.structs.asdict(generation)))
    await outbox.add(
        connection, tenant, device, kind=KIND, payload=text_of(generation.signed), now=generation.created_at
    )
    await connection.execute(
        sa.delete(_T).where(
            _T.c.tenant == tenant,
            _T.c.device == device,
            sa.or_(_T.c.epoch < generation.epoch, _T.c.number <= generation.number - _KEEP),
            _T.c.epoch <= generation.epoch,
        )
    )
    await events.append(
        connection,
        tenant,
        kind="generation",
        resource="devices",
        name=device,
        now=generation.created_at,
        data={"epoch": generation.epoch, "number": generation.number, "why": generation.why},
    )


async def newest(connection: Connection, tenant: str, device: str) -> Stored | None:
    """The level of one device."""
    statement = sa.select(_T).where(_T.c.tenant == tenant, _T.c.device == device)
    return await first(connection, statement.order_by(_T.c.epoch.desc(), _T.c.number.desc()).limit(1), Stored)


async def newest_in(connection: Connection, tenant: str) -> dict[str, Stored]:
    """The level of every device of a tenant, by device."""
    later = _T.alias()
    beaten = sa.exists().where(
        later.c.tenant == _T.c.tenant,
        later.c.device == _T.c.device,
        sa.or_(later.c.epoch > _T.c.epoch, sa.and_(later.c.epoch == _T.c.epoch, later.c.number > _T.c.number)),
    )
    found = await every(connection, sa.select(_T).where(_T.c.tenant == tenant, ~beaten), Stored)
    return {generation.device: generation for generation in found}


async def history(connection: Connection, tenant: str, device: str, *, limit: int = _KEEP) -> list[Stored]:
    """The newest generations of one device, newest first."""
    statement = sa.select(_T).where(_T.c.tenant == tenant, _T.c.device == device)
    return await every(connection, statement.order_by(_T.c.epoch.desc(), _T.c.number.desc()).limit(limit), Stored)
