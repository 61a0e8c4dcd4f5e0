"""`/api/v1/policies`: routing policies, as JSON or TOML."""

import msgspec

from cloud_core.api.assignments import check_together
from cloud_core.api.paging import QUERY, after_of, limit_of, page_of
from cloud_core.api.routes import Call, Needs, Page, Reply, Route, Scope, absent, conflict
from cloud_core.decide.access import Resource, Verb
from cloud_core.store import assignments, policies
from cloud_core.store.policies import StoredPolicy
from shared.protocol import names
from shared.protocol.policy import MAX_BYTES, Policy, parse_policy

PATH = "/api/v1/policies"
TOML = "application/toml"


class PolicyView(msgspec.Struct, frozen=True, kw_only=True):
    """One policy; `document` has every field, those that were left out included."""

    name: str
    revision: int
    created_at: float
    updated_at: float
    document: Policy


async def listed(call: Call) -> Reply:
    """A page of policies."""
    limit = limit_of(call)
    found = await policies.page(call.connection, call.tenant, after=after_of(call), limit=limit + 1)
    return Reply(value=page_of(found, limit, key=lambda policy: policy.name, view=_view))


async def put(call: Call) -> Reply:
    """Make or change a policy; every assignment that uses it must still hold."""
    name = names.checked("slug", call.segment("policy"), field="policy")
    policy = parse_policy(call.body, form="toml" if call.request.content_type == TOML else "json")
    held = await policies.get(call.connection, call.tenant, name, lock=True)
    call.match(None if held is None else held.revision)
    for assignment in await assignments.everywhere(call.connection, call.tenant):
        if assignment.policy == name:
            check_together(assignment.wanted, policy)
    if held is not None and held.policy == policy:
        return Reply(value=_view(held), revision=held.revision)
    stored = await policies.put(call.connection, call.tenant, name, policy=policy, now=call.now)
    return Reply(
        value=_view(stored),
        status=201 if held is None else 200,
        revision=stored.revision,
        location=f"{PATH}/{name}",
        detail={"revision": stored.revision},
    )


async def shown(call: Call) -> Reply:
    """One policy."""
    stored = await _found(call)
    return Reply(value=_view(stored), revision=stored.revision)


async def deleted(call: Call) -> Reply:
    """Hide a policy that no assignment uses."""
    stored = await _found(call, lock=True)
    call.match(stored.revision)
    for assignment in await assignments.everywhere(call.connection, call.tenant):
        if assignment.policy == stored.name:
            raise conflict("an assignment uses this policy", field="group", value=assignment.group, code="in-use")
    await policies.delete(call.connection, call.tenant, stored.name, now=call.now)
    return Reply()


async def _found(call: Call, *, lock: bool = False) -> StoredPolicy:
    name = call.segment("policy")
    stored = await policies.get(call.connection, call.tenant, name, lock=lock)
    if stored is None:
        raise absent("policy", name)
    return stored


def _view(stored: StoredPolicy) -> PolicyView:
    return PolicyView(
        name=stored.name,
        revision=stored.revision,
        created_at=stored.created_at,
        updated_at=stored.updated_at,
        document=stored.policy,
    )


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    read, update, delete = (Needs(verb, Resource.POLICIES) for verb in (Verb.READ, Verb.UPDATE, Verb.DELETE))
    one = PATH + "/{policy}"
    return (
        Route(
            method="GET", path=PATH, access=read, scope=Scope.READ, run=listed, query=QUERY,
            summary="Policies, by name", answer=Page[PolicyView],
        ),
        Route(
            method="PUT", path=one, access=update, scope=Scope.WRITE, run=put, body=bytes, max_body=MAX_BYTES,
            media=("application/json", TOML), summary="Make or change a policy (JSON or TOML)", answer=PolicyView,
        ),
        Route(
            method="GET", path=one, access=read, scope=Scope.READ, run=shown, summary="One policy", answer=PolicyView,
        ),
        Route(
            method="DELETE", path=one, access=delete, scope=Scope.WRITE, run=deleted, status=204,
            summary="Hide a policy that no assignment uses",
        ),
    )  # fmt: skip
