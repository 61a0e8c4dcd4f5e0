"""`/api/v1/rollouts`: a version on its way to a group's devices, in waves, judged by evidence. The loops carry it out."""

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from cloud_core.api.paging import QUERY, after_of, limit_of, page_of, page_within
from cloud_core.api.rollout_request import NewRollout, check_against_registry, impossible, spec_of
from cloud_core.api.routes import Call, Handler, Needs, Page, Reply, Route, Scope, absent, conflict
from cloud_core.decide.access import Resource, Verb
from cloud_core.decide.rollout_devices import Member
from cloud_core.decide.rollout_spec import TRANSITIONS, Action, Spec, State, Verdict, Why, acted
from cloud_core.decide.rollout_waves import quota, spread
from cloud_core.store import rollouts
from cloud_core.store.rollout_fleet import Fleet, fleet_of
from cloud_core.store.rollouts import Stored
from shared.protocol.errors import Refused

PATH = "/api/v1/rollouts"
SAYS: Mapping[Action, str] = {
    Action.PAUSE: "No device more, until it is resumed",
    Action.RESUME: "Go on; after a bad verdict the caller answers for this wave, which is not judged again",
    Action.APPROVE: "Let the wave begin that waits for it",
    Action.ABORT: "End it: devices keep what they have",
    Action.ROLLBACK: "End it: devices get what they had before",
}


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout. `why`: what its state follows from, or what it waits for; `wave` counts from 0; `devices`: how many, by state."""

    id: str
    model: str
    version: str
    group: str
    state: State
    why: Why
    wave: int
    waves: tuple[str, ...]
    devices: dict[str, int]
    spec: Spec
    revision: int
    created_by: str
    created_at: float
    changed_at: float
    finished_at: float | None


class RolloutDetail(RolloutView, frozen=True, kw_only=True):
    """One rollout with every verdict, oldest first, and the numbers each follows from."""

    verdicts: tuple[Verdict, ...]


class PlannedWave(msgspec.Struct, frozen=True, kw_only=True):
    """A wave, and the devices it would take in as things are now."""

    wave: str
    devices: tuple[str, ...]


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A device that would not be given the version, and why."""

    device: str
    why: str


class PlanView(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollout would do. `unfit`: no variant runs there; `overruled`: another group decides the model there."""

    fleet: int
    waves: tuple[PlannedWave, ...]
    offline: tuple[str, ...]
    unfit: tuple[LeftOut, ...]
    overruled: tuple[LeftOut, ...]


async def listed(call: Call) -> Reply:
    """A page of rollouts."""
    limit, after = limit_of(call), after_of(call)
    found = await rollouts.page(call.connection, call.tenant, before=_place(after), limit=limit + 1)
    counts = await rollouts.states(call.connection, call.tenant, [one.id for one in found])

    def view(one: Stored) -> RolloutView:
        return RolloutView(**_fields(one, counts[one.id]))

    return Reply(value=page_of(found, limit, key=lambda one: f"{one.created_at!r}/{one.id}", view=view))


async def created(call: Call) -> Reply:
    """A new rollout; the loops begin with it at once, or when it is approved."""
    spec = spec_of(call.body)
    await check_against_registry(call, spec)
    if not (await _fleet(call, spec)).targets:
        raise impossible("group", spec.group, "a group with enrolled devices that the version fits")
    id_ = str(uuid.uuid4())
    stored = await rollouts.create(
        call.connection, call.tenant, id_, spec, created_by=call.principal.label, now=call.now
    )
    if stored is None:
        raise conflict("a rollout of this model is under way", field="model", value=spec.model, code="in-progress")
    detail = {"model": spec.model, "version": spec.version, "group": spec.group}
    return Reply(
        value=RolloutView(**_fields(stored, {})),
        status=201,
        revision=stored.revision,
        location=f"{PATH}/{id_}",
        name=id_,
        detail=detail,
    )


async def planned(call: Call) -> Reply:
    """What a rollout would do, without doing it."""
    spec = spec_of(call.body)
    await check_against_registry(call, spec)
    fleet = await _fleet(call, spec)
    order = spread({one.device: one.site for one in fleet.targets}, seed="")
    offline = {one.device for one in fleet.targets if one.online_since is None}
    order.sort(key=lambda device: device in offline)
    ends = [0, *(quota(spec.waves, wave, len(order)) for wave in range(len(spec.waves)))]
    waves = tuple(
        PlannedWave(wave=wave, devices=tuple(order[ends[i] : ends[i + 1]])) for i, wave in enumerate(spec.waves)
    )
    view = PlanView(
        fleet=len(order),
        waves=waves,
        offline=tuple(sorted(offline)),
        unfit=_left_out(fleet.unfit),
        overruled=_left_out(fleet.overruled),
    )
    return Reply(value=view)


async def shown(call: Call) -> Reply:
    """One rollout with its verdicts."""
    stored = await _found(call)
    counts = await rollouts.states(call.connection, call.tenant, [stored.id])
    verdicts = tuple(await rollouts.verdicts(call.connection, call.tenant, stored.id))
    return Reply(value=RolloutDetail(verdicts=verdicts, **_fields(stored, counts[stored.id])), revision=stored.revision)


async def devices(call: Call) -> Reply:
    """The devices that came in, by name."""
    stored = await _found(call)
    members = (await rollouts.members(call.connection, call.tenant, stored.id)).values()
    return Reply(value=page_within(call, list(members), key=lambda one: one.device, view=lambda one: one))


def acting(action: Action) -> Handler:
    """A handler that does this to a rollout."""

    async def act(call: Call) -> Reply:
        stored = await _found(call, lock=True)
        call.match(stored.revision)
        after = acted(stored.rollout, action, call.now)
        if after is None or (stored.state is State.ABORTED and not stored.holds):
            allowed = ", ".join(sorted(state.value for state in TRANSITIONS[action]))
            raise conflict(
                f"a rollout that is {stored.state.value} cannot be told to {action.value}; allowed: {allowed}",
                field="state",
                value=stored.state.value,
                code="wrong-state",
            )
        if stored.state is State.ABORTED:
            for other in await rollouts.open_in(call.connection, call.tenant):
                if other.model == stored.model:
                    raise conflict("another rollout of this model is under way", field="model", value=stored.model)
        if not await rollouts.put(call.connection, call.tenant, after, revision=stored.revision, now=call.now):
            raise conflict("it was changed meanwhile", field="revision", value=stored.revision)
        now_is = await _found(call)
        counts = await rollouts.states(call.connection, call.tenant, [now_is.id])
        view = RolloutView(**_fields(now_is, counts[now_is.id]))
        detail = {"action": action.value, "from": stored.state.value, "to": after.state.value}
        return Reply(value=view, revision=now_is.revision, name=stored.id, detail=detail)

    return act


async def _found(call: Call, *, lock: bool = False) -> Stored:
    id_ = call.segment("rollout")
    stored = await rollouts.get(call.connection, call.tenant, id_, lock=lock)
    if stored is None:
        raise absent("rollout", id_)
    return stored


async def _fleet(call: Call, spec: Spec) -> Fleet:
    return await fleet_of(call.connection, call.tenant, spec, now=call.now, lost_after=call.api.settings.lost_after_s)


def _fields(one: Stored, counts: Mapping[str, int]) -> dict[str, Any]:
    spec = one.rollout.spec
    known = {name: getattr(one, name) for name in RolloutView.__struct_fields__ if hasattr(one, name)}
    return {**known, "spec": spec, "waves": spec.waves, "devices": dict(counts)}


def _left_out(devices: Mapping[str, str]) -> tuple[LeftOut, ...]:
    return tuple(LeftOut(device=device, why=why) for device, why in sorted(devices.items()))


def _place(after: str) -> tuple[float, str] | None:
    if not after:
        return None
    at, _, id_ = after.partition("/")
    try:
        return float(at), id_
    except ValueError as error:
        raise Refused("not a cursor of this list", field="cursor", value=after, allowed="`next` of a page") from error


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    read, create, update = (Needs(verb, Resource.ROLLOUTS) for verb in (Verb.READ, Verb.CREATE, Verb.UPDATE))
    one = PATH + "/{rollout}"
    return (
        Route(
            method="GET", path=PATH, access=read, scope=Scope.READ, run=listed, query=QUERY,
            summary="Rollouts, newest first", answer=Page[RolloutView],
        ),
        Route(
            method="POST", path=PATH, access=create, scope=Scope.WRITE, run=created, body=NewRollout, status=201,
            summary="Give a group's devices another version, in waves", answer=RolloutView,
        ),
        Route(
            method="POST", path=PATH + "/plan", access=create, scope=Scope.READ, run=planned, body=NewRollout,
            summary="What a rollout would do, and which devices it would leave out", answer=PlanView,
        ),
        Route(
            method="GET", path=one, access=read, scope=Scope.READ, run=shown,
            summary="One rollout with its verdicts", answer=RolloutDetail,
        ),
        Route(
            method="GET", path=one + "/devices", access=read, scope=Scope.READ, run=devices, query=QUERY,
            summary="The devices that came in, by name", answer=Page[Member],
        ),
        *(
            Route(
                method="POST", path=f"{one}/{action.value}", access=update, scope=Scope.WRITE, run=acting(action),
                summary=SAYS[action], answer=RolloutView,
            )
            for action in Action
        ),
    )  # fmt: skip
