"""Desired state: which devices of a tenant need a new generation, with what content, and why.

Level-triggered: the plan follows from the snapshot alone, so planning again after it was applied plans nothing. Groups are
weighed by priority (highest first), then by name; the union of their models holds, and where two ask for the same model, for a
policy or for a limit, the first that asks wins (one group may ask for two versions of a model: its policy splits between them).
"""

import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from shared.protocol.desired import Generation, Limits, ModelRef, Order, check_generation
from shared.protocol.errors import Refused
from shared.protocol.policy import Policy
from shared.serving.decide.ways import Way

REISSUE_SHARE = 1 / 3
"""A generation is signed anew when less than this share of its validity is left."""


class Reason(StrEnum):
    """Why a device gets a new generation."""

    NEW_ASSIGNMENT = "new-assignment"
    MEMBERSHIP_CHANGED = "membership-changed"
    MODELS_CHANGED = "models-changed"
    POLICY_CHANGED = "policy-changed"
    LIMITS_CHANGED = "limits-changed"
    UNASSIGNED = "unassigned"
    EPOCH_RAISED = "epoch-raised"
    REISSUED = "reissued"


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """One model version a group asks for; `tuned` by hardware class: how it was found to run best there."""

    name: str
    version: str
    variant: str | None = None
    tuned: Mapping[str, Way] = {}


class Assigned(msgspec.Struct, frozen=True, kw_only=True):
    """What one group should run."""

    group: str
    models: tuple[Wish, ...]
    policy: str | None = None
    limits: Limits = Limits()
    priority: int = 0


class Rolled(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollout gives one device: another version of a model in what `group` asks for."""

    group: str
    model: str
    version: str
    variant: str | None = None


class PolicyDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A named policy as it stands now."""

    policy: Policy
    revision: int


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation is about: everything but its order and its times."""

    models: tuple[ModelRef, ...] = ()
    policy: Policy = Policy()
    policy_name: str | None = None
    policy_revision: int = 0
    limits: Limits = Limits()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical encoding; equal digests mean that nothing is to be done."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The newest generation of a device; `groups` are those it was made from, None where that is not known."""

    order: Order
    content: Content
    groups: tuple[str, ...] | None
    expires_at: float


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant at one moment.

    `devices`: those enrolled; `memberships`: groups by device; `digests`: manifest digest by (model, version), published ones only;
    `held`: newest generation by device; `hardware`: hardware class by device, as far as anything was tuned for one; `rolled`: by device,
    what rollouts give it, of which a later one counts more. Times are Unix seconds.
    """

    tenant: str
    epoch: int
    devices: tuple[str, ...]
    memberships: Mapping[str, tuple[str, ...]]
    assignments: tuple[Assigned, ...]
    digests: Mapping[tuple[str, str], str]
    policies: Mapping[str, PolicyDocument]
    held: Mapping[str, Held]
    hardware: Mapping[str, str] = {}
    rolled: Mapping[str, tuple[Rolled, ...]] = {}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One device gets this generation, made from the assignments of `groups`."""

    generation: Generation
    content: Content
    groups: tuple[str, ...]
    reason: Reason


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One device keeps what it has, since what it should run contradicts itself; `field` says where."""

    device: str
    field: str
    message: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything to be done, by device name."""

    steps: tuple[Step, ...]
    problems: tuple[Problem, ...]


def plan(snapshot: Snapshot, *, now: float, valid: float) -> Plan:
    """The generations that are missing.

    Args:
        snapshot: the tenant.
        now: the time of this decision.
        valid: seconds a new generation holds before its age is alarming.

    """
    ranked = sorted(snapshot.assignments, key=_rank)
    steps: list[Step] = []
    problems: list[Problem] = []
    for device in sorted(snapshot.devices):
        groups = frozenset(snapshot.memberships.get(device, ()))
        mine = [assigned for assigned in ranked if assigned.group in groups]
        mine = with_rolled(mine, [each for each in snapshot.rolled.get(device, ()) if each.group in groups])
        try:
            step = _step(snapshot, device, mine, now=now, valid=valid)
        except Refused as refused:
            problems.append(Problem(device=device, field=refused.field or "$", message=refused.message))
            continue
        if step is not None:
            steps.append(step)
    return Plan(steps=tuple(steps), problems=tuple(problems))


def with_rolled(mine: Sequence[Assigned], rolled: Sequence[Rolled]) -> list[Assigned]:
    """What the groups ask for, with what rollouts give in its place: in a group that asks for nothing, for that alone."""
    found = {assigned.group: assigned for assigned in mine}
    for each in rolled:
        assigned = found.get(each.group, Assigned(group=each.group, models=()))
        wish = Wish(name=each.model, version=each.version, variant=each.variant)
        found[each.group] = msgspec.structs.replace(assigned, models=with_wish(assigned.models, wish))
    return sorted(found.values(), key=_rank)


def with_wish(models: Sequence[Wish], wish: Wish) -> tuple[Wish, ...]:
    """The wishes with this one for its model."""
    return (*(each for each in models if each.name != wish.name), wish)


def content_of(snapshot: Snapshot, mine: Sequence[Assigned], hardware: str | None = None) -> Content:
    """What a device of class `hardware` in the groups of `mine` (highest first) should run.

    Raises:
        Refused: a version that is not published, or an unknown policy.

    """
    models: list[ModelRef] = []
    owner: dict[str, str] = {}
    for assigned in mine:
        for wish in assigned.models:
            if owner.setdefault(wish.name, assigned.group) != assigned.group:
                continue
            digest = snapshot.digests.get((wish.name, wish.version))
            if digest is None:
                field = f"assignments.{assigned.group}.models"
                raise Refused("not published", field=field, value=f"{wish.name}@{wish.version}")
            models.append(_ref(wish, digest, hardware))
    named = next((assigned for assigned in mine if assigned.policy is not None), None)
    document = PolicyDocument(policy=Policy(), revision=0)
    if named is not None and named.policy is not None:
        if named.policy not in snapshot.policies:
            raise Refused("unknown policy", field=f"assignments.{named.group}.policy", value=named.policy)
        document = snapshot.policies[named.policy]
    return Content(
        models=tuple(sorted(models, key=lambda model: (model.name, model.version))),
        policy=document.policy,
        policy_name=named.policy if named is not None else None,
        policy_revision=document.revision,
        limits=_limits(mine),
    )


def content_in(generation: Generation) -> Content:
    """The content of a generation that was made before."""
    return msgspec.convert(generation, Content, from_attributes=True)


def why_text(reason: Reason, groups: Sequence[str]) -> str:
    """What is stored beside a generation for people: the reason and the groups it was made from."""
    return f"{reason.value}: {', '.join(groups)}"


def groups_in(why: str) -> tuple[str, ...] | None:
    """The groups in a stored `why_text`; None for a text of another form."""
    _, colon, names = why.partition(": ")
    return tuple(names.split(", ") if names else ()) if colon else None


def _step(snapshot: Snapshot, device: str, mine: Sequence[Assigned], *, now: float, valid: float) -> Step | None:
    held = snapshot.held.get(device)
    if held is None and not mine:
        return None
    content = content_of(snapshot, mine, snapshot.hardware.get(device))
    groups = tuple(assigned.group for assigned in mine)
    reason = _reason(held, content, groups, epoch=snapshot.epoch, reissue=now + valid * REISSUE_SHARE)
    if reason is None:
        return None
    epoch = snapshot.epoch if held is None else max(snapshot.epoch, held.order.epoch)
    number = held.order.number + 1 if held is not None and held.order.epoch == epoch else 1
    generation = Generation(
        tenant=snapshot.tenant,
        device=device,
        epoch=epoch,
        number=number,
        issued_at=now,
        expires_at=now + valid,
        models=content.models,
        policy=content.policy,
        policy_name=content.policy_name,
        policy_revision=content.policy_revision,
        limits=content.limits,
    )
    check_generation(generation)
    return Step(generation=generation, content=content, groups=groups, reason=reason)


def _ref(wish: Wish, digest: str, hardware: str | None) -> ModelRef:
    way = None if hardware is None else wish.tuned.get(hardware)
    if way is None or wish.variant not in (None, way.variant):
        return ModelRef(name=wish.name, version=wish.version, digest=digest, variant=wish.variant)
    return ModelRef(
        name=wish.name, version=wish.version, digest=digest, variant=way.variant, arrangement=way.arrangement
    )


def _rank(assigned: Assigned) -> tuple[int, str]:
    return -assigned.priority, assigned.group


def _reason(
    held: Held | None, content: Content, groups: tuple[str, ...], *, epoch: int, reissue: float
) -> Reason | None:
    if held is None:
        return Reason.NEW_ASSIGNMENT
    if held.content.digest != content.digest:
        if not groups:
            return Reason.UNASSIGNED
        if held.groups is not None and set(held.groups) != set(groups):
            return Reason.MEMBERSHIP_CHANGED if held.groups else Reason.NEW_ASSIGNMENT
        if held.content.models != content.models:
            return Reason.MODELS_CHANGED
        return Reason.LIMITS_CHANGED if held.content.limits != content.limits else Reason.POLICY_CHANGED
    if held.order.epoch < epoch:
        return Reason.EPOCH_RAISED
    return Reason.REISSUED if held.expires_at < reissue else None


def _limits(mine: Sequence[Assigned]) -> Limits:
    chosen = Limits()
    for assigned in mine:
        fields = msgspec.structs.asdict(chosen)
        more = {name: getattr(assigned.limits, name) for name, value in fields.items() if value is None}
        chosen = msgspec.structs.replace(chosen, **more)
    return chosen
