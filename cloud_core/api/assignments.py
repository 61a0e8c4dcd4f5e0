"""`/api/v1/assignments/{group}`: what the devices of a group should run. The loops make generations of it."""

from collections.abc import Sequence

import msgspec

from cloud_core.api.paging import QUERY, after_of, limit_of, page_of
from cloud_core.api.routes import Call, Needs, Page, Reply, Route, Scope, absent, conflict
from cloud_core.decide.access import Resource, Verb
from cloud_core.store import assignments, groups, policies, rollouts, versions
from cloud_core.store.assignments import Assignment, Wanted
from shared.protocol.desired import Generation, Limits, ModelRef, check_generation
from shared.protocol.errors import Refusal, Refused
from shared.protocol.policy import Policy
from shared.protocol.window import parse_window
from shared.serving.decide.ways import Way

PATH = "/api/v1/assignments"
MAX_MODELS = 100
MAX_PRIORITY = 1_000_000
MAX_CLASSES = 1000
MAX_NUMBER = 65536


class WantedLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What agents may use; an absent one leaves the agent's own setting."""

    threads: int | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    download_bytes_per_s: int | None = None
    download_window: str | None = None


class NewAssignment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a group should run; `policy` null means the default policy."""

    models: tuple[Wanted, ...]
    policy: str | None = None
    limits: WantedLimits = WantedLimits()
    priority: int = 0


class AssignmentView(msgspec.Struct, frozen=True, kw_only=True):
    """One group's assignment."""

    group: str
    models: tuple[Wanted, ...]
    policy: str | None
    limits: Limits
    priority: int
    revision: int
    updated_at: float


def check_together(models: Sequence[Wanted], policy: Policy) -> None:
    """Refuse a policy that names a model or version the assignment lacks, and a version that stands twice."""
    refs = tuple(
        ModelRef(name=wanted.name, version=wanted.version, digest="", variant=wanted.variant) for wanted in models
    )
    check_generation(
        Generation(tenant="", device="", epoch=0, number=0, issued_at=0.0, expires_at=0.0, models=refs, policy=policy)
    )


async def listed(call: Call) -> Reply:
    """A page of assignments."""
    limit = limit_of(call)
    found = await assignments.page(call.connection, call.tenant, after=after_of(call), limit=limit + 1)
    return Reply(value=page_of(found, limit, key=lambda assignment: assignment.group, view=_view))


async def put(call: Call) -> Reply:
    """Assign models and a policy to a group; refused as a whole where anything named is absent."""
    body: NewAssignment = call.body
    name = call.segment("group")
    if await groups.get(call.connection, call.tenant, name, lock=True) is None:
        raise absent("group", name)
    held = await assignments.get(call.connection, call.tenant, name)
    call.match(None if held is None else held.revision)
    if len(body.models) > MAX_MODELS:
        raise _impossible("models", len(body.models), f"{MAX_MODELS} at most")
    if abs(body.priority) > MAX_PRIORITY:
        raise _impossible("priority", body.priority, f"-{MAX_PRIORITY} to {MAX_PRIORITY}")
    for i, wanted in enumerate(body.models):
        await _check_model(call, wanted, f"models[{i}]")
    for field, value in msgspec.structs.asdict(body.limits).items():
        if isinstance(value, int) and value < 1:
            raise _impossible(f"limits.{field}", value, "1 or more, or absent")
    if body.limits.download_window is not None:
        parse_window(body.limits.download_window, field="limits.download_window")
    policy = await _policy(call, body.policy)
    check_together(body.models, policy)
    await _not_against_a_rollout(call, name, held.wanted if held is not None else (), body.models)
    stored = await assignments.put(
        call.connection,
        call.tenant,
        name,
        models=body.models,
        policy=body.policy,
        limits=Limits(**msgspec.structs.asdict(body.limits)),
        priority=body.priority,
        now=call.now,
    )
    status = 201 if held is None else 200
    return Reply(value=_view(stored), status=status, revision=stored.revision, location=f"{PATH}/{name}")


async def shown(call: Call) -> Reply:
    """One group's assignment."""
    stored = await _found(call)
    return Reply(value=_view(stored), revision=stored.revision)


async def deleted(call: Call) -> Reply:
    """The group asks for nothing any more."""
    stored = await _found(call, lock=True)
    call.match(stored.revision)
    await _not_against_a_rollout(call, stored.group, stored.wanted, ())
    await assignments.delete(call.connection, call.tenant, stored.group, now=call.now)
    return Reply()


async def _not_against_a_rollout(call: Call, group: str, before: Sequence[Wanted], after: Sequence[Wanted]) -> None:
    """Refuse to change a model that a rollout changes; what aborted ones left on devices ends with the new assignment."""
    for rollout in await rollouts.open_in(call.connection, call.tenant):
        ours = [[each for each in models if each.name == rollout.model] for models in (before, after)]
        if rollout.group == group and ours[0] != ours[1]:
            raise conflict("a rollout of this model is under way", field="models", value=rollout.id, code="in-progress")
    await rollouts.release(call.connection, call.tenant, group)


async def _check_model(call: Call, wanted: Wanted, path: str) -> None:
    version = await versions.get(call.connection, call.tenant, wanted.name, wanted.version, lock=True)
    if version is None:
        raise _impossible(path, f"{wanted.name}@{wanted.version}", "a published version")
    variants = [variant.name for variant in version.parsed.variants]
    if wanted.variant is not None and wanted.variant not in variants:
        raise _impossible(f"{path}.variant", wanted.variant, ", ".join(variants))
    if len(wanted.tuned) > MAX_CLASSES:
        raise _impossible(f"{path}.tuned", len(wanted.tuned), f"{MAX_CLASSES} at most")
    for hardware, way in wanted.tuned.items():
        _check_way(way, wanted.variant, variants, f"{path}.tuned.{hardware[:64]}")


def _check_way(way: Way, named: str | None, variants: Sequence[str], path: str) -> None:
    allowed = variants if named is None else (named,)
    if way.variant not in allowed:
        raise _impossible(f"{path}.variant", way.variant, ", ".join(allowed))
    how = way.arrangement
    for field, value in (("lanes", how.lanes), ("threads", how.threads), ("rows", how.rows), ("tokens", how.tokens)):
        if value is not None and not 1 <= value <= MAX_NUMBER:
            raise _impossible(f"{path}.arrangement.{field}", value, f"1 to {MAX_NUMBER}")


async def _policy(call: Call, name: str | None) -> Policy:
    if name is None:
        return Policy()
    stored = await policies.get(call.connection, call.tenant, name, lock=True)
    if stored is None:
        raise _impossible("policy", name, "the name of a policy")
    return stored.policy


async def _found(call: Call, *, lock: bool = False) -> Assignment:
    name = call.segment("group")
    stored = await assignments.get(call.connection, call.tenant, name, lock=lock)
    if stored is None:
        raise absent("assignment", name)
    return stored


def _impossible(field: str, value: object, allowed: str) -> Refused:
    return Refused("impossible assignment", kind=Refusal.UNPROCESSABLE, field=field, value=value, allowed=allowed)


def _view(stored: Assignment) -> AssignmentView:
    return AssignmentView(
        group=stored.group,
        models=stored.wanted,
        policy=stored.policy,
        limits=stored.limits_value,
        priority=stored.priority,
        revision=stored.revision,
        updated_at=stored.updated_at,
    )


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    read, update, delete = (Needs(verb, Resource.ASSIGNMENTS) for verb in (Verb.READ, Verb.UPDATE, Verb.DELETE))
    one = PATH + "/{group}"
    return (
        Route(
            method="GET", path=PATH, access=read, scope=Scope.READ, run=listed, query=QUERY,
            summary="Assignments, by group", answer=Page[AssignmentView],
        ),
        Route(
            method="PUT", path=one, access=update, scope=Scope.WRITE, run=put, body=NewAssignment,
            summary="Say what a group should run", answer=AssignmentView,
        ),
        Route(
            method="GET", path=one, access=read, scope=Scope.READ, run=shown,
            summary="What a group should run", answer=AssignmentView,
        ),
        Route(
            method="DELETE", path=one, access=delete, scope=Scope.WRITE, run=deleted, status=204,
            summary="The group asks for nothing any more",
        ),
    )  # fmt: skip
