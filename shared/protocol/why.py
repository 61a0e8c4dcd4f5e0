"""A device's story of one request, as `GET /v1/why/{request_id}` tells it and `fleetctl why` shows it.

What has a default may be missing: a device of an older release is understood by a newer `fleetctl`.
"""

import msgspec


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What was known when it was decided; milliseconds. None: the device does not serve the model, nothing was measured."""

    local_wait_ms: float | None = None
    local_compute_ms: float | None = None
    cloud_ms: float | None = None
    cloud_permitted: bool = False
    cloud_announced_wait_ms: float = 0.0
    cloud_budget_left: int | None = None
    breaker: str = ""
    policy_age_s: float = 0.0


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One place that was asked, why, and what came of it; `after_ms` is when it was asked, from the request's beginning.

    `by` is `name@version/variant` of an answer, `confidence` how sure it is of itself; None where it cannot tell.
    """

    where: str
    reason: str
    outcome: str
    ms: float
    after_ms: float = 0.0
    by: str | None = None
    confidence: float | None = None
    error: str | None = None


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """One request's whole story. `at` is Unix seconds; `generation` the signed pair (epoch, number) in force.

    `answered_by` is `name@version/variant`, as in `X-Tideline-Model`; None where nobody answered. `compared`: whether the
    device's and the cloud's answer say the same, in a cascade that asked both: `agree (same)`, `differ (label)`. The answers themselves
    are not kept: stories outlive what was asked.
    """

    request_id: str
    at: float
    model: str
    version: str | None
    mode: str
    private: bool
    deadline_ms: float
    generation: tuple[int, int] | None = None
    policy_name: str | None = None
    policy_revision: int | None = None
    decision: str
    reason: str
    predicted: Prediction
    attempts: tuple[Attempt, ...]
    where: str | None
    outcome: str
    answered_by: str | None = None
    compared: str | None = None
