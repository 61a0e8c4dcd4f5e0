"""Which replicas serve which models; each replica's owner says so every few seconds.

Replicas belong to the platform, not to a tenant; whoever shows one to a tenant shows it only its own models.
"""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from cloud_core.store import events, tables
from cloud_core.store.database import Connection
from cloud_core.store.rows import changed, every, first, insert, text_of

_T = tables.replicas


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One model version on a replica; `state` is a `ModelState`."""

    tenant: str
    name: str
    version: str
    variant: str | None = None
    state: str = "ready"


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One replica as it last reported; `models` is the JSON list of `Served`."""

    replica: str
    url: str
    kind: str
    models: str
    started_at: float
    seen_at: float

    @property
    def served(self) -> tuple[Served, ...]:
        """The models, decoded."""
        return msgspec.json.decode(self.models, type=tuple[Served, ...])


async def report(
    connection: Connection,
    replica: str,
    *,
    url: str,
    kind: str,
    models: Sequence[Served],
    started_at: float,
    now: float,
) -> None:
    """A replica is alive and serves `models`; an event only where that is news."""
    before = await first(connection, sa.select(_T).where(_T.c.replica == replica), Replica)
    values = {"url": url, "kind": kind, "models": text_of(models), "started_at": started_at, "seen_at": now}
    await connection.execute(
        insert(connection, _T)
        .values(replica=replica, **values)
        .on_conflict_do_update(index_elements=[_T.c.replica], set_=values)
    )
    if before is None or (before.url, before.models) != (url, values["models"]):
        kind_of_event = "created" if before is None else "updated"
        await _event(connection, replica, kind=kind_of_event, now=now)


async def remove(connection: Connection, replica: str, *, now: float) -> bool:
    """The replica is gone; False if it was not there."""
    found = await changed(connection, sa.delete(_T).where(_T.c.replica == replica)) > 0
    if found:
        await _event(connection, replica, kind="deleted", now=now)
    return found


async def alive(connection: Connection, *, since: float) -> list[Replica]:
    """Replicas that reported at or after `since`, by name."""
    return await every(connection, sa.select(_T).where(_T.c.seen_at >= since).order_by(_T.c.replica), Replica)


async def _event(connection: Connection, replica: str, *, kind: str, now: float) -> None:
    await events.append(connection, events.EVERYONE, kind=kind, resource="replicas", name=replica, now=now)
