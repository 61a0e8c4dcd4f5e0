"""Devices: who they are, whether they are there, and what they report.

Presence, reports and telemetry are levels ordered by the device's own epochs: an older one never replaces a newer.
Functions that record them return False where what came was old news, and write nothing then.
"""

from collections.abc import Collection, Mapping

import msgspec
import sqlalchemy as sa

from cloud_core.decide.summary import Summary
from cloud_core.store import events, tables
from cloud_core.store.bulk import execute_rows, given
from cloud_core.store.database import Connection
from cloud_core.store.rows import changed, columns, every, first, insert, text_of
from shared.protocol.reported import Birth, Hardware, Reported

_T, _M = tables.devices, tables.group_members
_FORGOTTEN: dict[str, object] = dict.fromkeys(
    set(_T.c.keys()) - {"tenant", "device", "description", "revision", "created_at", "deleted_at"}
)
"""Everything a device brought with it: its credentials, presence, reports and telemetry."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One device. `hardware`, `reported` and `telemetry` are JSON text of `Hardware`, `Reported` and `Summary`."""

    tenant: str
    device: str
    description: str
    revision: int
    created_at: float
    enrol_expires_at: float | None
    enrol_key: str | None
    enrolled_at: float | None
    public_key: str | None
    epoch: int | None
    born_at: float | None
    died_at: float | None
    last_seen: float | None
    agent_version: str | None
    hardware: str | None
    reported_epoch: int | None
    reported_seq: int | None
    reported: str | None
    reported_at: float | None
    telemetry: str | None
    telemetry_at: float | None


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker checks a device's password against, in Mosquitto's form."""

    tenant: str
    device: str
    mqtt_password_hash: str


async def create(
    connection: Connection,
    tenant: str,
    device: str,
    *,
    description: str,
    enrol_token_hash: str,
    enrol_expires_at: float,
    now: float,
) -> Device | None:
    """A new device that may enrol once with its token; None if there is one of that name. A deleted one comes back empty."""
    fresh = {
        **_FORGOTTEN,
        "description": description,
        "created_at": now,
        "deleted_at": None,
        "enrol_token_hash": enrol_token_hash,
        "enrol_expires_at": enrol_expires_at,
    }
    statement = (
        insert(connection, _T)
        .values(tenant=tenant, device=device, revision=1, **fresh)
        .on_conflict_do_update(
            index_elements=[_T.c.tenant, _T.c.device],
            set_={**fresh, "revision": _T.c.revision + 1},
            where=_T.c.deleted_at.is_not(None),
        )
    )
    if await changed(connection, statement) == 0:
        return None
    await events.append(connection, tenant, kind="created", resource="devices", name=device, now=now)
    return await get(connection, tenant, device)


async def get(connection: Connection, tenant: str, device: str, *, lock: bool = False) -> Device | None:
    """One device that is not deleted. `lock` keeps it as it is until this transaction ends."""
    statement = _present(tenant).where(_T.c.device == device)
    return await first(connection, statement.with_for_update() if lock else statement, Device)


async def page(
    connection: Connection, tenant: str, *, after: str = "", limit: int = 100, group: str | None = None
) -> list[Device]:
    """Devices by name from the one behind `after`; of one group where it is given."""
    statement = _present(tenant).where(_T.c.device > after)
    if group is not None:
        inside = sa.select(_M.c.device).where(_M.c.tenant == tenant, _M.c.group == group)
        statement = statement.where(_T.c.device.in_(inside))
    return await every(connection, statement.order_by(_T.c.device).limit(limit), Device)


async def everywhere(connection: Connection, tenant: str) -> list[Device]:
    """Every device of a tenant that is not deleted, for the loops."""
    return await every(connection, _present(tenant).order_by(_T.c.device), Device)


async def renew_enrolment(
    connection: Connection, tenant: str, device: str, *, enrol_token_hash: str, enrol_expires_at: float, now: float
) -> bool:
    """A new one-time token for a device, enrolled or not; the identity it has holds until the token is used."""
    values = {"enrol_token_hash": enrol_token_hash, "enrol_expires_at": enrol_expires_at, "enrol_key": None}
    return await _update(connection, tenant, device, kind="enrolment-renewed", now=now, **values)


async def enrol(
    connection: Connection,
    enrol_token_hash: str,
    *,
    public_key: str,
    mqtt_password_hash: str,
    hardware: Hardware,
    agent_version: str,
    now: float,
) -> tuple[str, str] | None:
    """Use a one-time token: (tenant, device) of its owner, or None if it is unknown, another key's or expired.

    One statement finds the token and ties it to the key, so of two racing claims one wins. The same key may ask again until
    it has proved itself (`settle_enrolment`), because the answer to its first request may have been lost on the way.
    """
    own = sa.or_(_T.c.enrol_key.is_(None), _T.c.enrol_key == public_key)
    live = sa.and_(_T.c.enrol_expires_at > now, _T.c.deleted_at.is_(None))
    statement = (
        sa.update(_T)
        .where(_T.c.enrol_token_hash == enrol_token_hash, live, own)
        .values(
            enrol_key=public_key,
            enrolled_at=now,
            public_key=public_key,
            mqtt_password_hash=mqtt_password_hash,
            hardware=text_of(hardware),
            agent_version=agent_version,
        )
        .returning(_T.c.tenant, _T.c.device)
    )
    row = (await connection.execute(statement)).first()
    if row is None:
        return None
    await events.append(connection, row.tenant, kind="enrolled", resource="devices", name=row.device, now=now)
    return row.tenant, row.device


async def settle_enrolment(connection: Connection, tenant: str, device: str) -> None:
    """The device has proved that it holds its identity: its one-time token is worth nothing from now on."""
    used = sa.and_(_T.c.tenant == tenant, _T.c.device == device, _T.c.enrol_key.is_not(None))
    gone = {"enrol_token_hash": None, "enrol_expires_at": None, "enrol_key": None}
    await connection.execute(sa.update(_T).where(used).values(gone))


async def delete(connection: Connection, tenant: str, device: str, *, now: float) -> bool:
    """Forget a device: its credentials end at once, its history stays. False if there is none."""
    values = {**_FORGOTTEN, "deleted_at": now, "revision": _T.c.revision + 1}
    if not await _update(connection, tenant, device, kind="deleted", now=now, **values):
        return False
    await connection.execute(sa.delete(_M).where(_M.c.tenant == tenant, _M.c.device == device))
    return True


async def credential(connection: Connection, tenant: str, device: str) -> Credential | None:
    """What the broker checks one device against."""
    return await first(connection, _credentials().where(_T.c.tenant == tenant, _T.c.device == device), Credential)


async def credentials(connection: Connection) -> list[Credential]:
    """What a broker checks every device of every tenant against."""
    return await every(connection, _credentials().order_by(_T.c.tenant, _T.c.device), Credential)


async def record_birth(connection: Connection, tenant: str, device: str, birth: Birth, *, now: float) -> bool:
    """The device is there, since connection `birth.epoch`."""
    newer = sa.or_(_T.c.epoch.is_(None), _T.c.epoch <= birth.epoch)
    values = {
        "epoch": birth.epoch,
        "born_at": now,
        "died_at": None,
        "last_seen": now,
        "agent_version": birth.agent_version[:64],
        "hardware": text_of(birth.hardware),
    }
    return await _update(connection, tenant, device, newer, kind="online", now=now, **values)


async def record_death(connection: Connection, tenant: str, device: str, *, epoch: int, now: float) -> bool:
    """The connection of `epoch` ended; news only if it is the newest one."""
    newest = sa.and_(_T.c.epoch == epoch, _T.c.died_at.is_(None))
    return await _update(connection, tenant, device, newest, kind="offline", now=now, died_at=now)


async def record_report(connection: Connection, tenant: str, device: str, reported: Reported, *, now: float) -> bool:
    """The whole reported state; the newest by (epoch, seq) stays."""
    newer = sa.or_(
        _T.c.reported_epoch.is_(None),
        _T.c.reported_epoch < reported.epoch,
        sa.and_(_T.c.reported_epoch == reported.epoch, _T.c.reported_seq < reported.seq),
    )
    values = {
        "reported_epoch": reported.epoch,
        "reported_seq": reported.seq,
        "reported": text_of(reported),
        "reported_at": now,
        "last_seen": now,
    }
    return await _update(connection, tenant, device, newer, kind="reported", now=now, **values)


async def record_telemetry(connection: Connection, summaries: Mapping[tuple[str, str], Summary], *, now: float) -> None:
    """What the newest samples of these (tenant, device) say; one about an earlier interval is old news."""
    if not summaries:
        return
    own = sa.and_(_T.c.tenant == sa.bindparam("own_tenant"), _T.c.device == sa.bindparam("own_device"))
    newer = sa.or_(_T.c.telemetry_at.is_(None), _T.c.telemetry_at <= sa.bindparam("at"))
    statement = (
        sa.update(_T)
        .where(own, _T.c.deleted_at.is_(None), newer)
        .values(telemetry=sa.bindparam("said"), telemetry_at=sa.bindparam("at"), last_seen=sa.bindparam("now"))
    )
    values = [
        (tenant, device, text_of(summary), summary.ended_at, now) for (tenant, device), summary in summaries.items()
    ]
    await execute_rows(connection, statement, ("own_tenant", "own_device", "said", "at", "now"), values)


async def summaries(connection: Connection, names: Collection[tuple[str, str]]) -> dict[tuple[str, str], Summary]:
    """What is held of the newest samples of these (tenant, device)."""
    own = given(connection, {"tenant": _T.c.tenant.type, "device": _T.c.device.type}, list(names))
    joined = own.join(_T, sa.and_(_T.c.tenant == own.c.tenant, _T.c.device == own.c.device))
    statement = sa.select(_T.c.tenant, _T.c.device, _T.c.telemetry).select_from(joined)
    rows = (await connection.execute(statement.where(_T.c.telemetry.is_not(None)))).all()
    return {(tenant, device): msgspec.json.decode(text, type=Summary) for tenant, device, text in rows}


async def touch(connection: Connection, tenant: str, device: str, *, now: float) -> None:
    """Something came from the device."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.device == device, _T.c.deleted_at.is_(None))
    await connection.execute(sa.update(_T).where(own).values(last_seen=now))


def _present(tenant: str) -> sa.Select[tuple[object, ...]]:
    return sa.select(*columns(_T, Device)).where(_T.c.tenant == tenant, _T.c.deleted_at.is_(None))


def _credentials() -> sa.Select[tuple[object, ...]]:
    kept = sa.and_(_T.c.deleted_at.is_(None), _T.c.mqtt_password_hash.is_not(None))
    return sa.select(*columns(_T, Credential)).where(kept)


async def _update(
    connection: Connection,
    tenant: str,
    device: str,
    *conditions: sa.ColumnElement[bool],
    kind: str,
    now: float,
    **values: object,
) -> bool:
    own = sa.and_(_T.c.tenant == tenant, _T.c.device == device, _T.c.deleted_at.is_(None), *conditions)
    if await changed(connection, sa.update(_T).where(own).values(**values)) == 0:
        return False
    await events.append(connection, tenant, kind=kind, resource="devices", name=device, now=now)
    return True
