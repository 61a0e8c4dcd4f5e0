"""`/api/v1/groups`: groups of devices, which assignments are made to."""

import msgspec

from cloud_core.api.models import LONGEST_TEXT
from cloud_core.api.paging import QUERY, after_of, limit_of, page_of
from cloud_core.api.routes import Call, Needs, Page, Reply, Route, Scope, absent, conflict
from cloud_core.decide.access import Resource, Verb
from cloud_core.store import assignments, devices, groups, rollouts
from cloud_core.store.groups import Group
from shared.protocol import names

PATH = "/api/v1/groups"


class NewGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group to make."""

    name: str
    description: str = ""


class GroupView(msgspec.Struct, frozen=True, kw_only=True):
    """One group and the devices in it."""

    name: str
    description: str
    revision: int
    created_at: float
    devices: tuple[str, ...]


async def listed(call: Call) -> Reply:
    """A page of groups."""
    limit = limit_of(call)
    found = await groups.page(call.connection, call.tenant, after=after_of(call), limit=limit + 1)
    inside: dict[str, tuple[str, ...]] = {}
    for device, names_of in (await groups.memberships(call.connection, call.tenant)).items():
        for name in names_of:
            inside[name] = (*inside.get(name, ()), device)

    def view(group: Group) -> GroupView:
        return _view(group, inside.get(group.name, ()))

    return Reply(value=page_of(found, limit, key=lambda group: group.name, view=view))


async def created(call: Call) -> Reply:
    """A new group."""
    body: NewGroup = call.body
    name = names.checked("slug", body.name, field="name")
    group = await groups.create(
        call.connection, call.tenant, name, description=body.description[:LONGEST_TEXT], now=call.now
    )
    if group is None:
        raise conflict("there is a group of that name", field="name", value=name)
    return Reply(value=_view(group, ()), status=201, revision=group.revision, location=f"{PATH}/{name}", name=name)


async def shown(call: Call) -> Reply:
    """One group."""
    return await _answer(call, await _found(call))


async def deleted(call: Call) -> Reply:
    """Drop a group that is assigned nothing."""
    group = await _found(call, lock=True)
    call.match(group.revision)
    if await assignments.get(call.connection, call.tenant, group.name) is not None:
        raise conflict("the group has an assignment", field="group", value=group.name, code="in-use")
    for rollout in await rollouts.holding(call.connection, call.tenant):
        if rollout.group == group.name:
            raise conflict("a rollout is about the group", field="rollout", value=rollout.id, code="in-use")
    await groups.delete(call.connection, call.tenant, group.name, now=call.now)
    return Reply()


async def joined(call: Call) -> Reply:
    """Put a device into a group; harmless when it is there."""
    group, device = await _found(call, lock=True), call.segment("device")
    call.match(group.revision)
    if await devices.get(call.connection, call.tenant, device) is None:
        raise absent("device", device)
    await groups.add(call.connection, call.tenant, group.name, device, now=call.now)
    return await _answer(call, await _found(call))


async def left(call: Call) -> Reply:
    """Take a device out of a group."""
    group, device = await _found(call, lock=True), call.segment("device")
    call.match(group.revision)
    if not await groups.remove(call.connection, call.tenant, group.name, device, now=call.now):
        raise absent("member", device)
    return Reply()


async def _found(call: Call, *, lock: bool = False) -> Group:
    name = call.segment("group")
    group = await groups.get(call.connection, call.tenant, name, lock=lock)
    if group is None:
        raise absent("group", name)
    return group


async def _answer(call: Call, group: Group) -> Reply:
    members = await groups.members(call.connection, call.tenant, group.name)
    return Reply(value=_view(group, tuple(members)), revision=group.revision)


def _view(group: Group, members: tuple[str, ...]) -> GroupView:
    return GroupView(devices=members, **msgspec.structs.asdict(group))


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    read, create, update, delete = (
        Needs(verb, Resource.GROUPS) for verb in (Verb.READ, Verb.CREATE, Verb.UPDATE, Verb.DELETE)
    )
    one, member = PATH + "/{group}", PATH + "/{group}/members/{device}"
    return (
        Route(
            method="GET", path=PATH, access=read, scope=Scope.READ, run=listed, query=QUERY,
            summary="Groups, by name", answer=Page[GroupView],
        ),
        Route(
            method="POST", path=PATH, access=create, scope=Scope.WRITE, run=created, body=NewGroup, status=201,
            summary="Make a group", answer=GroupView,
        ),
        Route(
            method="GET", path=one, access=read, scope=Scope.READ, run=shown, summary="One group", answer=GroupView,
        ),
        Route(
            method="DELETE", path=one, access=delete, scope=Scope.WRITE, run=deleted, status=204,
            summary="Drop a group that has no assignment",
        ),
        Route(
            method="PUT", path=member, access=update, scope=Scope.WRITE, run=joined,
            summary="Put a device into a group", answer=GroupView,
        ),
        Route(
            method="DELETE", path=member, access=update, scope=Scope.WRITE, run=left, status=204,
            summary="Take a device out of a group",
        ),
    )  # fmt: skip
