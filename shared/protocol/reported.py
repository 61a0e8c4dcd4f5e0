"""What a device says it runs, and its presence: levels, never events.

A report is always the whole state. The cloud keeps the newest by (epoch, seq); `state_digest` in the birth message lets it
ask for a report only when what it holds differs.
"""

from enum import StrEnum

import msgspec

from shared.protocol.desired import Order
from shared.protocol.trust import TrustReport
from shared.serving.arrangement import Arrangement

KIND = "reported"
BIRTH = "birth"
DEATH = "death"
STATE = "state"


class ModelState(StrEnum):
    """Where a model version stands on a device or a replica; `/v2/health/ready` speaks the same words."""

    ABSENT = "absent"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Convergence(StrEnum):
    """How far the device is with its newest generation."""

    NONE = "none"
    CONVERGING = "converging"
    APPLIED = "applied"
    FAILED = "failed"
    REFUSED = "refused"


class Outcome(StrEnum):
    """What became of the newest generation; on `PROBATION` it answers and has yet to show that it may stay."""

    PROBATION = "probation"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled-back"
    FAILED = "failed"


class Isolation(StrEnum):
    """What keeps the process in which a model is tried off the network."""

    NAMESPACE = "namespace"
    SECCOMP = "seccomp"
    NONE = "none"


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """One model version. `progress` is 0 to 1 within the step; `active` says whether requests are answered by it.

    While it is fetched: `bytes_per_s` on the average so far, and `seconds_left` at that rate.
    """

    name: str
    version: str
    digest: str
    variant: str | None = None
    state: ModelState = ModelState.ABSENT
    active: bool = False
    progress: float | None = None
    bytes_per_s: float | None = None
    seconds_left: float | None = None
    error: str | None = None


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """How a version of a manifest `digest` was found to run best on this device, `at` Unix seconds.

    `seconds`, by how many requests come at once (`1`: alone): in how many it answers them. `machine`: a digest of what the
    finding holds for (processor, cores, versions of the runtimes); devices of one hardware class that report the same one need
    not measure again.
    """

    digest: str
    variant: str
    arrangement: Arrangement
    seconds: dict[str, float] = {}
    machine: str = ""
    at: float = 0.0


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """The whole reported state. `applied` is the generation that answers requests, `target` the newest accepted one.

    `outcome`: what became of `target`; None while the device is on its way there.

    `isolation`: what keeps models off the network while they are tried, before they are loaded. `tuned`: of the models above,
    those that were measured on this device.
    """

    epoch: int
    seq: int
    at: float
    applied: Order | None
    target: Order | None
    convergence: Convergence
    models: tuple[ModelReport, ...]
    step: str | None = None
    error: str | None = None
    policy_revision: int | None = None
    outcome: Outcome | None = None
    isolation: Isolation | None = None
    tuned: tuple[Tuned, ...] = ()
    trust: TrustReport | None = None
    agent_version: str = ""
    state_digest: str = ""


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What a device is; `hardware_class` groups devices whose measurements compare."""

    hardware_class: str
    machine: str
    cpus: int
    memory_bytes: int
    features: tuple[str, ...] = ()


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """Sent on every connection, with the epoch of that connection (64-bit, persisted, never reset)."""

    epoch: int
    at: float
    agent_version: str
    hardware: Hardware
    state_digest: str


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """The last will: epoch only. One of an older epoch than the last birth is ignored."""

    epoch: int


class CloudState(msgspec.Struct, frozen=True, kw_only=True):
    """Retained on the `state` topic by the leading `loops`; a will of an older epoch is ignored."""

    online: bool
    at: float
    epoch: int
