"""What a rollout is: its specification, its states, and what people may do to it. Pure.

running <-> awaiting_approval            -> succeeded   the group's assignment names the new version from now on
running, awaiting_approval <-> paused    -> aborted     devices keep what they have
any of these, aborted -> rolling_back    -> rolled_back devices have what they had
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from cloud_core.decide.rollout_devices import Patience
from cloud_core.decide.rollout_gates import Check, Limits
from cloud_core.decide.rollout_waves import CANARY, Rate

DAY_S = 86400.0


class Strategy(StrEnum):
    """In which waves devices come, where no waves are given."""

    CANARY = "canary"
    ALL_AT_ONCE = "all-at-once"


class Approval(StrEnum):
    """What a person must approve: nothing, the beginning, or every wave."""

    NONE = "none"
    START = "start"
    WAVES = "waves"


class OnBad(StrEnum):
    """What a bad verdict does."""

    PAUSE = "pause"
    ROLL_BACK = "roll-back"


class State(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    AWAITING_APPROVAL = "awaiting_approval"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    SUCCEEDED = "succeeded"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"


class Action(StrEnum):
    """What a person may do to a rollout."""

    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"
    ABORT = "abort"
    ROLLBACK = "rollback"


class Why(StrEnum):
    """What a decision, or a wait, follows from."""

    STARTED = "started"
    PERSON = "person"
    DEVICES = "devices"
    WINDOW = "outside-window"
    RATE = "rate"
    BUSY = "busy"
    APPROVAL = "approval"
    OFFLINE = "too-many-offline"
    SOAK = "soaking"
    TOO_FEW = "too-few-requests"
    ERRORS = "device-errors"
    EVIDENCE = "evidence"
    LATE = "not-ended-in-time"
    PASSED = "passed"


OPEN = frozenset({State.RUNNING, State.AWAITING_APPROVAL, State.PAUSED, State.ROLLING_BACK})
"""States that are no end."""
HOLDING = frozenset({State.RUNNING, State.AWAITING_APPROVAL, State.PAUSED, State.ABORTED})
"""States in which devices that have the new version are given it."""
JUDGED = frozenset({Why.ERRORS, Why.EVIDENCE})
"""Verdicts a person who resumes answers for."""
TRANSITIONS: Mapping[Action, Mapping[State, State]] = {
    Action.PAUSE: dict.fromkeys((State.RUNNING, State.AWAITING_APPROVAL), State.PAUSED),
    Action.RESUME: {State.PAUSED: State.RUNNING},
    Action.APPROVE: {State.AWAITING_APPROVAL: State.RUNNING},
    Action.ABORT: dict.fromkeys((State.RUNNING, State.AWAITING_APPROVAL, State.PAUSED), State.ABORTED),
    Action.ROLLBACK: dict.fromkeys(HOLDING, State.ROLLING_BACK),
}


class DeviceGates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shares, 0 to 1. Errors are of devices that completed, judged from `min_completed` on or when the wave is done."""

    max_error_share: float = 0.05
    min_completed: int = 10
    max_offline_share: float = 0.2


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. `window`: when devices may come, as `shared.protocol.window` reads it; times in seconds.

    `ends_within_s`: how long it may run without a person doing anything about it.
    """

    model: str
    version: str
    group: str
    variant: str | None = None
    waves: tuple[str, ...] = CANARY
    rate: Rate | None = None
    window: str | None = None
    patience: Patience = Patience()
    approval: Approval = Approval.NONE
    priority: int = 0
    on_bad: OnBad = OnBad.ROLL_BACK
    soak_s: float = 600.0
    ends_within_s: float = 7 * DAY_S
    gates: DeviceGates = DeviceGates()
    limits: Limits = Limits()
    needs_evidence: bool = False


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout as it stands, its state since `changed_at`.

    `approved`: how many waves a person let begin; `excused`: the wave whose bad verdict a person answers for.
    """

    id: str
    spec: Spec
    state: State
    changed_at: float
    wave: int = 0
    approved: int = 0
    excused: int = -1
    why: Why = Why.STARTED


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided at `at` about a wave, and every number it follows from; kept for ever.

    `devices`: how many of them ran both versions and were compared.
    """

    at: float
    wave: int
    decision: State
    why: Why
    numbers: Mapping[str, float]
    checks: tuple[Check, ...] = ()
    devices: int = 0


def acted(rollout: Rollout, action: Action, now: float) -> Rollout | None:
    """The rollout after a person did this; None where it cannot be done in its state."""
    state = TRANSITIONS[action].get(rollout.state)
    if state is None:
        return None
    excused = action is Action.RESUME and rollout.why in JUDGED
    return msgspec.structs.replace(
        rollout,
        state=state,
        changed_at=now,
        approved=rollout.wave + 1 if action is Action.APPROVE else rollout.approved,
        excused=rollout.wave if excused else rollout.excused,
        why=Why.PERSON,
    )
