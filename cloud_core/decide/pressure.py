"""What the gateway tells a tenant's fleet about its headroom, and when it is worth saying.

Invariants: `admit_fraction` never rises with load, is 0 where nobody serves a model and 1 only where replicas wait less than
`low`; a message goes out on change beyond the dead band, when a model comes or goes, or before the last one gets old.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from shared.protocol.pressure import ModelPressure, Pressure

_ROUNDING = 1e-6
"""What sums of floats may be short of the number that they are."""


class Reason(StrEnum):
    """Why it is published or not."""

    FIRST = "first"
    MODELS_CHANGED = "models-changed"
    ADMIT_CHANGED = "admit-changed"
    WAIT_CHANGED = "wait-changed"
    AGED = "aged"
    WITHIN_DEAD_BAND = "within-dead-band"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of expected wait below which everything, and from which nothing, is admitted; the dead band; message ages."""

    low: float = 0.1
    high: float = 1.0
    admit_band: float = 0.1
    wait_band: float = 0.25
    wait_floor: float = 0.05
    every: float = 30.0
    valid: float = 90.0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one replica: seconds a request would wait there before compute."""

    expected_wait: float


class Publish(msgspec.Struct, frozen=True, kw_only=True):
    """Say it."""

    reason: Reason


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """What was said last still holds."""

    reason: Reason


def headroom(loads: Sequence[Load], limits: Limits) -> ModelPressure:
    """Headroom of one model over the replicas that have it ready.

    Two choices spread requests close to evenly, so the mean over replicas is what a request meets.
    """
    if not loads:
        return ModelPressure(expected_wait_s=limits.high, admit_fraction=0.0)
    wait = sum(load.expected_wait for load in loads) / len(loads)
    by_wait = (limits.high - wait) / (limits.high - limits.low)
    share = max(0.0, min(1.0, by_wait))
    return ModelPressure(expected_wait_s=round(wait, 4), admit_fraction=math.floor(share * 1000 + _ROUNDING) / 1000)


def pressure(loads: Mapping[str, Sequence[Load]], *, now: float, limits: Limits) -> Pressure:
    """The message for a tenant's models; `now` is Unix seconds."""
    models = {model: headroom(each, limits) for model, each in loads.items()}
    return Pressure(models=models, valid_until=round(now + limits.valid, 1))


def worth_saying(last: Pressure | None, current: Pressure, *, since: float, limits: Limits) -> Publish | Keep:
    """Whether `current` goes out, when `last` went out `since` seconds ago."""
    if last is None:
        return Publish(reason=Reason.FIRST)
    if last.models.keys() != current.models.keys():
        return Publish(reason=Reason.MODELS_CHANGED)
    if since >= limits.every:
        return Publish(reason=Reason.AGED)
    for name, told in last.models.items():
        is_ = current.models[name]
        if abs(is_.admit_fraction - told.admit_fraction) > limits.admit_band:
            return Publish(reason=Reason.ADMIT_CHANGED)
        moved = abs(is_.expected_wait_s - told.expected_wait_s)
        if moved > max(limits.wait_floor, limits.wait_band * told.expected_wait_s):
            return Publish(reason=Reason.WAIT_CHANGED)
    return Keep(reason=Reason.WITHIN_DEAD_BAND)
