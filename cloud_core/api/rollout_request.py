"""What may be asked of a rollout, checked field by field before anything is stored."""

import msgspec

from cloud_core.api.assignments import check_together
from cloud_core.api.routes import Call, conflict
from cloud_core.decide.rollout_devices import Patience
from cloud_core.decide.rollout_gates import Limits
from cloud_core.decide.rollout_spec import DAY_S, Approval, DeviceGates, OnBad, Spec, Strategy
from cloud_core.decide.rollout_waves import ALL_AT_ONCE, CANARY, Rate, check_waves
from cloud_core.store import assignments, groups, policies, versions
from cloud_core.store.assignments import Assignment, Wanted
from shared.protocol.errors import Refusal, Refused
from shared.protocol.policy import Policy
from shared.protocol.window import parse_window

MOST_S = 365 * DAY_S
MOST_RETRIES = 10
MOST_PRIORITY = 1_000_000
MOST_RATE = 100_000.0
MOST_REQUESTS = 1_000_000_000


class NewRollout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version on its way to a group's devices. Times in seconds; shares are 0 to 1.

    `waves`: numbers of devices (`1`) and shares (`5%`), the last one 100%; null takes those of the strategy. `window`: a time of day in
    UTC, `22:00-05:30`. `soak_s`: how long a wave that is done is watched. `on_bad`: what a bad verdict does. `needs_evidence`: a wave
    without enough requests waits for them.
    """

    model: str
    version: str
    group: str
    variant: str | None = None
    strategy: Strategy = Strategy.CANARY
    waves: tuple[str, ...] | None = None
    rate: Rate | None = None
    window: str | None = None
    timeout_s: float = Patience().timeout_s
    retries: int = Patience().retries
    backoff_s: float = Patience().backoff_s
    approval: Approval = Approval.NONE
    priority: int = 0
    on_bad: OnBad = OnBad.ROLL_BACK
    soak_s: float = 600.0
    ends_within_s: float = 7 * DAY_S
    gates: DeviceGates = DeviceGates()
    limits: Limits = Limits()
    needs_evidence: bool = False


def spec_of(body: NewRollout) -> Spec:
    """The specification, as far as it can be judged by itself.

    Raises:
        Refused: an impossible value; names the field.

    """
    waves = body.waves
    if waves is None:
        waves = CANARY if body.strategy is Strategy.CANARY else ALL_AT_ONCE
    check_waves(waves, field="waves")
    if body.window is not None:
        parse_window(body.window, field="window")
    if body.rate is not None:
        _between("rate.base_per_minute", body.rate.base_per_minute, 0.001, MOST_RATE)
        _between("rate.factor", body.rate.factor, 1.0, 5.0)
        _between("rate.every", body.rate.every, 1, MOST_RATE)
        _between("rate.most_per_minute", body.rate.most_per_minute, 0.001, MOST_RATE)
    _between("timeout_s", body.timeout_s, 1.0, MOST_S)
    _between("retries", body.retries, 0, MOST_RETRIES)
    _between("backoff_s", body.backoff_s, 0.0, MOST_S)
    _between("priority", body.priority, -MOST_PRIORITY, MOST_PRIORITY)
    _between("soak_s", body.soak_s, 0.0, MOST_S)
    _between("ends_within_s", body.ends_within_s, 1.0, MOST_S)
    _between("gates.max_error_share", body.gates.max_error_share, 0.0, 1.0)
    _between("gates.min_completed", body.gates.min_completed, 1, MOST_REQUESTS)
    _between("gates.max_offline_share", body.gates.max_offline_share, 0.0, 1.0)
    for name in ("p50_ratio", "p99_ratio"):
        _between(f"limits.{name}", getattr(body.limits, name), 1.0, 1000.0)
    for name in ("error_rate", "non_finite_rate", "saturation_rate", "disagreement_rate", "score_drift"):
        _between(f"limits.{name}", getattr(body.limits, name), 0.0, 1.0)
    _between("limits.min_requests", body.limits.min_requests, 1, MOST_REQUESTS)
    _between("limits.false_alarm", body.limits.false_alarm, 1e-9, 0.5)
    shared = {name: getattr(body, name) for name in Spec.__struct_fields__ if name in NewRollout.__struct_fields__}
    patience = Patience(timeout_s=body.timeout_s, retries=body.retries, backoff_s=body.backoff_s)
    return Spec(**{**shared, "waves": waves, "patience": patience})


async def check_against_registry(call: Call, spec: Spec) -> None:
    """Refuse what the registry says cannot be: in the transaction that stores it, nothing of it goes away meanwhile.

    Raises:
        Refused: something that is named is absent, is assigned already, or contradicts the group's policy.

    """
    version = await versions.get(call.connection, call.tenant, spec.model, spec.version, lock=True)
    if version is None:
        raise impossible("version", f"{spec.model}@{spec.version}", "a published version")
    variants = [variant.name for variant in version.parsed.variants]
    if spec.variant is not None and spec.variant not in variants:
        raise impossible("variant", spec.variant, ", ".join(variants))
    if await groups.get(call.connection, call.tenant, spec.group, lock=True) is None:
        raise impossible("group", spec.group, "the name of a group")
    held = await assignments.get(call.connection, call.tenant, spec.group, lock=True)
    wanted = held.wanted if held is not None else ()
    of_model = [each.version for each in wanted if each.name == spec.model]
    if len(of_model) > 1:
        raise impossible("group", spec.group, f"a group that asks for one version of {spec.model}, not {of_model}")
    if of_model == [spec.version]:
        raise conflict("the group is assigned this version", field="version", value=spec.version, code="assigned")
    mine = Wanted(name=spec.model, version=spec.version, variant=spec.variant)
    check_together([*(each for each in wanted if each.name != spec.model), mine], await _policy(call, held))


def impossible(field: str, value: object, allowed: str) -> Refused:
    """422."""
    return Refused("impossible rollout", kind=Refusal.UNPROCESSABLE, field=field, value=value, allowed=allowed)


async def _policy(call: Call, held: Assignment | None) -> Policy:
    stored = None
    if held is not None and held.policy is not None:
        stored = await policies.get(call.connection, call.tenant, held.policy)
    return Policy() if stored is None else stored.policy


def _between(field: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise impossible(field, value, f"{least:g} to {most:g}")
