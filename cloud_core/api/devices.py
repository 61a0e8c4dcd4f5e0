"""`/api/v1/devices`: the fleet as it is: who is there, what each should run, what it runs, how it is doing."""

import secrets

import msgspec

from cloud_core.api.auth import hash_of
from cloud_core.api.models import LONGEST_TEXT
from cloud_core.api.paging import QUERY, after_of, limit_of, page_of
from cloud_core.api.routes import Call, Needs, Page, Reply, Route, Scope, absent, conflict, document
from cloud_core.decide.access import Resource, Verb
from cloud_core.decide.liveness import classify
from cloud_core.store import devices, generations, groups
from cloud_core.store.devices import Device
from cloud_core.store.generations import Stored
from shared.protocol import names
from shared.protocol.errors import Refused

PATH = "/api/v1/devices"
ENROL_VALID_S = 24 * 3600.0
ENROL_LONGEST_S = 30 * 24 * 3600.0


class NewDevice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device to make; its one-time token is good for `enrol_valid_s` seconds."""

    device: str
    description: str = ""
    groups: tuple[str, ...] = ()
    enrol_valid_s: float = ENROL_VALID_S


class RenewEnrolment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new one-time token, good for `enrol_valid_s` seconds."""

    enrol_valid_s: float = ENROL_VALID_S


class EnrolToken(msgspec.Struct, frozen=True, kw_only=True):
    """Shown once; only its hash is kept."""

    device: str
    enrol_token: str
    expires_at: float


class PresenceView(msgspec.Struct, frozen=True, kw_only=True):
    """`state` is online, stale, lost or never; `why` is what that follows from."""

    state: str
    why: str


class DesiredView(msgspec.Struct, frozen=True, kw_only=True):
    """The newest generation made for a device."""

    epoch: int
    number: int
    why: str
    created_at: float


class DesiredDetail(DesiredView, frozen=True, kw_only=True):
    """The newest generation, with what was signed."""

    generation: msgspec.Raw | None


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """One device. `hardware`, `reported` and `telemetry` are what it said last (see `Hardware`, `Reported`, `Summary`)."""

    device: str
    description: str
    revision: int
    created_at: float
    groups: tuple[str, ...]
    enrolled_at: float | None
    presence: PresenceView
    last_seen: float | None
    agent_version: str | None
    hardware: msgspec.Raw | None
    desired: DesiredView | None
    reported: msgspec.Raw | None
    reported_at: float | None
    telemetry: msgspec.Raw | None
    telemetry_at: float | None


async def listed(call: Call) -> Reply:
    """A page of devices."""
    limit = limit_of(call)
    found = await devices.page(
        call.connection, call.tenant, after=after_of(call), limit=limit + 1, group=call.request.query.get("group")
    )
    members = await groups.memberships(call.connection, call.tenant)
    levels = await generations.newest_in(call.connection, call.tenant)

    def view(device: Device) -> DeviceView:
        return _view(call, device, members.get(device.device, ()), levels.get(device.device), detail=False)

    return Reply(value=page_of(found, limit, key=lambda device: device.device, view=view))


async def created(call: Call) -> Reply:
    """A new device and its one-time token."""
    body: NewDevice = call.body
    name = names.checked("slug", body.device, field="device")
    token, expires_at = _token(call, body.enrol_valid_s)
    made = await devices.create(
        call.connection,
        call.tenant,
        name,
        description=body.description[:LONGEST_TEXT],
        enrol_token_hash=hash_of(token),
        enrol_expires_at=expires_at,
        now=call.now,
    )
    if made is None:
        raise conflict("there is a device of that name", field="device", value=name)
    for group in body.groups:
        if await groups.get(call.connection, call.tenant, group, lock=True) is None:
            raise absent("group", group)
        await groups.add(call.connection, call.tenant, group, name, now=call.now)
    return Reply(
        value=EnrolToken(device=name, enrol_token=token, expires_at=expires_at),
        status=201,
        revision=made.revision,
        location=f"{PATH}/{name}",
        name=name,
    )


async def renewed(call: Call) -> Reply:
    """Another one-time token for a device; what it has now holds until that token is used."""
    body: RenewEnrolment = call.body
    device = await _found(call)
    token, expires_at = _token(call, body.enrol_valid_s)
    await devices.renew_enrolment(
        call.connection,
        call.tenant,
        device.device,
        enrol_token_hash=hash_of(token),
        enrol_expires_at=expires_at,
        now=call.now,
    )
    return Reply(value=EnrolToken(device=device.device, enrol_token=token, expires_at=expires_at), status=201)


async def shown(call: Call) -> Reply:
    """One device, with the generation that was signed for it."""
    device = await _found(call)
    members = await groups.memberships(call.connection, call.tenant)
    level = await generations.newest(call.connection, call.tenant, device.device)
    view = _view(call, device, members.get(device.device, ()), level, detail=True)
    return Reply(value=view, revision=device.revision)


async def deleted(call: Call) -> Reply:
    """Forget a device: what it authenticates with is worth nothing from now on."""
    device = await _found(call, lock=True)
    call.match(device.revision)
    await devices.delete(call.connection, call.tenant, device.device, now=call.now)
    return Reply()


async def _found(call: Call, *, lock: bool = False) -> Device:
    name = call.segment("device")
    device = await devices.get(call.connection, call.tenant, name, lock=lock)
    if device is None:
        raise absent("device", name)
    return device


def _token(call: Call, valid_s: float) -> tuple[str, float]:
    if not 1 <= valid_s <= ENROL_LONGEST_S:
        raise Refused("not a duration", field="enrol_valid_s", value=valid_s, allowed=f"1 to {ENROL_LONGEST_S:.0f} s")
    return secrets.token_urlsafe(32), call.now + valid_s


def _view(call: Call, device: Device, members: tuple[str, ...], level: Stored | None, *, detail: bool) -> DeviceView:
    presence = classify(
        born_epoch=device.epoch,
        born_at=device.born_at,
        died_at=device.died_at,
        last_seen=device.last_seen,
        now=call.now,
        lost_after=call.api.settings.lost_after_s,
    )
    return DeviceView(
        device=device.device,
        description=device.description,
        revision=device.revision,
        created_at=device.created_at,
        groups=members,
        enrolled_at=device.enrolled_at,
        presence=PresenceView(state=presence.state, why=presence.why),
        last_seen=device.last_seen,
        agent_version=device.agent_version,
        hardware=document(device.hardware),
        desired=_desired(level, detail=detail),
        reported=document(device.reported),
        reported_at=device.reported_at,
        telemetry=document(device.telemetry),
        telemetry_at=device.telemetry_at,
    )


def _desired(level: Stored | None, *, detail: bool) -> DesiredView | None:
    if level is None:
        return None
    if not detail:
        return DesiredView(epoch=level.epoch, number=level.number, why=level.why, created_at=level.created_at)
    return DesiredDetail(
        epoch=level.epoch,
        number=level.number,
        why=level.why,
        created_at=level.created_at,
        generation=document(level.payload),
    )


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    read, create, update, delete = (
        Needs(verb, Resource.DEVICES) for verb in (Verb.READ, Verb.CREATE, Verb.UPDATE, Verb.DELETE)
    )
    one = PATH + "/{device}"
    return (
        Route(
            method="GET", path=PATH, access=read, scope=Scope.READ, run=listed, query=(*QUERY, "group"),
            summary="Devices, by name; of one group with ?group=", answer=Page[DeviceView],
        ),
        Route(
            method="POST", path=PATH, access=create, scope=Scope.WRITE, run=created, body=NewDevice, status=201,
            summary="Make a device; the answer has its one-time enrolment token", answer=EnrolToken,
        ),
        Route(
            method="POST", path=one + "/enrolment", access=update, scope=Scope.WRITE, run=renewed, body=RenewEnrolment,
            status=201, summary="Another one-time enrolment token", answer=EnrolToken,
        ),
        Route(
            method="GET", path=one, access=read, scope=Scope.READ, run=shown, summary="One device", answer=DeviceView,
        ),
        Route(
            method="DELETE", path=one, access=delete, scope=Scope.WRITE, run=deleted, status=204,
            summary="Forget a device",
        ),
    )  # fmt: skip
