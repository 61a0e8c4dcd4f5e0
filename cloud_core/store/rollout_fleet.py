"""The devices a rollout is about, as they are now: what it plans for, and whom it leaves out and why."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from cloud_core.decide.generation import Assigned, Rolled, Wish, with_rolled
from cloud_core.decide.liveness import Presence, classify
from cloud_core.decide.placement import lacking
from cloud_core.decide.rollout_devices import Target
from cloud_core.decide.rollout_spec import Spec
from cloud_core.store import assignments, devices, groups, versions
from cloud_core.store.database import Connection
from cloud_core.store.devices import Device
from shared.bundle.manifest import Manifest
from shared.protocol.reported import Convergence, Hardware, ModelState, Reported

MOST = 1_000_000


class _Disk(msgspec.Struct):
    disk_free_bytes: int = 0


class _Told(msgspec.Struct):
    """What is looked at of a device's summary of telemetry."""

    host: _Disk


class Fleet(NamedTuple):
    """`unfit` says by device what is lacking, `overruled` which other group decides the model there; both are left out."""

    targets: Sequence[Target]
    unfit: Mapping[str, str]
    overruled: Mapping[str, str]


class _Read(NamedTuple):
    rows: Sequence[Device]
    memberships: Mapping[str, tuple[str, ...]]
    assigned: Sequence[Assigned]
    manifest: Manifest | None


async def fleet_of(
    connection: Connection,
    tenant: str,
    spec: Spec,
    *,
    came: Collection[str] = (),
    busy: Collection[str] = (),
    now: float,
    lost_after: float,
) -> Fleet:
    """The enrolled devices of the rollout's group. Those that `came` in already stay, whatever their disk says by now."""
    rows = await devices.page(connection, tenant, limit=MOST, group=spec.group)
    memberships = await groups.memberships(connection, tenant)
    assigned = [
        Assigned(
            group=one.group,
            models=tuple(msgspec.convert(one.wanted, tuple[Wish, ...], from_attributes=True)),
            priority=one.priority,
        )
        for one in await assignments.everywhere(connection, tenant)
    ]
    version = await versions.get(connection, tenant, spec.model, spec.version)
    manifest = version.parsed if version is not None else None
    read = _Read([row for row in rows if row.enrolled_at is not None], memberships, assigned, manifest)
    return await asyncio.to_thread(_fleet, read, spec, frozenset(came), frozenset(busy), now, lost_after)


def _fleet(  # noqa: PLR0917 - called in one place, in a thread
    read: _Read, spec: Spec, came: Collection[str], busy: Collection[str], now: float, lost_after: float
) -> Fleet:
    targets, unfit, overruled = [], {}, {}
    rolled = [Rolled(group=spec.group, model=spec.model, version=spec.version)]
    for row in read.rows:
        mine = {group for group in read.memberships.get(row.device, ()) if group != spec.group}
        asked = with_rolled([one for one in read.assigned if one.group in {*mine, spec.group}], rolled)
        owner = next(one.group for one in asked if any(wish.name == spec.model for wish in one.models))
        if owner != spec.group:
            overruled[row.device] = owner
            continue
        lack = None if row.device in came or read.manifest is None else _lacking(row, read.manifest, spec)
        if lack is not None:
            unfit[row.device] = lack
            continue
        targets.append(
            _target(row, spec, site=",".join(sorted(mine)), busy=row.device in busy, now=now, lost_after=lost_after)
        )
    return Fleet(targets, unfit, overruled)


def _lacking(row: Device, manifest: Manifest, spec: Spec) -> str | None:
    hardware = None if row.hardware is None else msgspec.json.decode(row.hardware, type=Hardware)
    free = None if row.telemetry is None else msgspec.json.decode(row.telemetry, type=_Told).host.disk_free_bytes
    return lacking(manifest, hardware, variant=spec.variant, disk_free_bytes=free)


def _target(row: Device, spec: Spec, *, site: str, busy: bool, now: float, lost_after: float) -> Target:
    alive = classify(
        born_epoch=row.epoch,
        born_at=row.born_at,
        died_at=row.died_at,
        last_seen=row.last_seen,
        now=now,
        lost_after=lost_after,
    )
    target = Target(
        device=row.device,
        site=site,
        online_since=row.born_at if alive.state in (Presence.ONLINE, Presence.STALE) else None,
        busy=busy,
    )
    if row.reported is None:
        return target
    report = msgspec.json.decode(row.reported, type=Reported)
    ours = [model for model in report.models if model.name == spec.model]
    active = [model.version for model in ours if model.active and model.state is ModelState.READY]
    gave_up = next((one for one in ours if (one.version, one.state) == (spec.version, ModelState.FAILED)), None)
    failed = report.convergence is Convergence.FAILED and gave_up is not None
    return msgspec.structs.replace(
        target,
        runs=spec.version if spec.version in active else next(iter(active), None),
        applied=report.convergence is Convergence.APPLIED,
        failed_on=report.target if failed else None,
        error=(gave_up.error or report.error or "") if failed and gave_up is not None else "",
    )
