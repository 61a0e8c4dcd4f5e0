"""Every MQTT topic and every HTTP path between the two sides, in one table.

A topic has one writing role; its readers are listed. Brokers enforce the rows by role (`may_publish`, `may_subscribe`),
and `cloud_core.broker` turns the same rows into Mosquitto's access file. MQTT usernames and client ids are `{tenant}/{device}`
for devices, `{tenant}/{client}` for integrators, and `cloud-core` and its roles for the control plane.
"""

from enum import StrEnum
from typing import NamedTuple

ROOT = "tideline/v1"
STATE = f"{ROOT}/state"


class Role(StrEnum):
    """Who speaks on MQTT."""

    CLOUD = "cloud"
    DEVICE = "device"
    INTEGRATOR = "integrator"


class Topic(NamedTuple):
    """One row: `pattern` has `{t}` tenant, `{d}` device and `{x}` one free level."""

    name: str
    pattern: str
    writer: Role
    readers: frozenset[Role]
    retained: bool
    qos: int


_CLOUD, _DEVICE, _INTEGRATOR = frozenset({Role.CLOUD}), frozenset({Role.DEVICE}), frozenset({Role.INTEGRATOR})

TOPICS: tuple[Topic, ...] = (
    Topic("state", STATE, Role.CLOUD, _CLOUD | _DEVICE | _INTEGRATOR, True, 1),
    Topic("pressure", ROOT + "/{t}/pressure", Role.CLOUD, _DEVICE | _CLOUD, True, 0),
    Topic("desired", ROOT + "/{t}/{d}/desired", Role.CLOUD, _DEVICE, True, 1),
    Topic("birth", ROOT + "/{t}/{d}/birth", Role.DEVICE, _CLOUD, False, 1),
    Topic("death", ROOT + "/{t}/{d}/death", Role.DEVICE, _CLOUD, False, 1),
    Topic("reported", ROOT + "/{t}/{d}/reported", Role.DEVICE, _CLOUD, False, 1),
    Topic("telemetry", ROOT + "/{t}/{d}/telemetry", Role.DEVICE, _CLOUD, False, 1),
    Topic("telemetry-ack", ROOT + "/{t}/{d}/telemetry/ack", Role.CLOUD, _DEVICE, False, 0),
    Topic("command", ROOT + "/{t}/{d}/command", Role.CLOUD, _DEVICE, False, 1),
    Topic("command-result", ROOT + "/{t}/{d}/command/result", Role.DEVICE, _CLOUD, False, 1),
    Topic("trust-get", ROOT + "/{t}/{d}/trust/get", Role.DEVICE, _CLOUD, False, 1),
    Topic("trust", ROOT + "/{t}/{d}/trust/{x}", Role.CLOUD, _DEVICE, False, 1),
    Topic("chunks-get", ROOT + "/{t}/{d}/chunks/get", Role.DEVICE, _CLOUD, False, 1),
    Topic("chunks", ROOT + "/{t}/{d}/chunks/{x}", Role.CLOUD, _DEVICE, False, 1),
    Topic("infer-request", ROOT + "/{t}/{d}/infer/{x}/request", Role.INTEGRATOR, _DEVICE, False, 1),
    Topic("infer-response", ROOT + "/{t}/{d}/infer/{x}/response/{x}", Role.DEVICE, _INTEGRATOR, False, 1),
)
BY_NAME = {row.name: row for row in TOPICS}
_PATTERNS = tuple((row, row.pattern.split("/")) for row in sorted(TOPICS, key=lambda row: row.pattern.count("{x}")))


class Parsed(NamedTuple):
    """A concrete topic: which row, whose, and the free levels."""

    row: Topic
    tenant: str | None
    device: str | None
    free: tuple[str, ...]


def topic(name: str, *, tenant: str = "", device: str = "", free: tuple[str, ...] = ()) -> str:
    """The concrete topic of row `name`."""
    text = BY_NAME[name].pattern.replace("{t}", tenant).replace("{d}", device)
    for level in free:
        text = text.replace("{x}", level, 1)
    return text


def everyone(name: str, *, share: str = "") -> str:
    """The subscription filter of row `name` over all tenants and devices; each message to one of those that `share` it by that name."""
    text = BY_NAME[name].pattern.replace("{t}", "+").replace("{d}", "+").replace("{x}", "+")
    return f"$share/{share}/{text}" if share else text


def parse(text: str) -> Parsed | None:
    """Which row a concrete topic belongs to; None if none (the caller counts and drops it)."""
    levels = text.split("/")
    # Literal levels win over free ones: chunks/get is "chunks-get", never a chunk called "get".
    for row, pattern in _PATTERNS:
        if len(pattern) != len(levels):
            continue
        found: dict[str, str] = {}
        free: list[str] = []
        for expected, level in zip(pattern, levels, strict=True):
            if expected in ("{t}", "{d}"):
                found[expected] = level
            elif expected == "{x}":
                free.append(level)
            elif expected != level:
                break
        else:
            return Parsed(row, found.get("{t}"), found.get("{d}"), tuple(free))
    return None


def may_publish(role: Role, *, tenant: str | None, device: str | None, text: str) -> bool:
    """May this principal publish to the concrete topic `text`?

    Args:
        role: the principal's role.
        tenant: its tenant; None for the control plane, which speaks for all.
        device: its device id; None for the control plane and for integrators, who reach every device of their tenant.
        text: the topic.

    """
    parsed = parse(text)
    return parsed is not None and parsed.row.writer is role and _is_own(parsed, role, tenant, device)


def may_subscribe(role: Role, *, tenant: str | None, device: str | None, text: str) -> bool:
    """May this principal subscribe to the filter `text`? The control plane may use `+` for tenant and device."""
    parsed = parse(text)
    if parsed is None or role not in parsed.row.readers or "#" in text:
        return False
    return _is_own(parsed, role, tenant, device)


def _is_own(parsed: Parsed, role: Role, tenant: str | None, device: str | None) -> bool:
    if role is Role.CLOUD:
        return True
    if parsed.tenant is not None and parsed.tenant != tenant:
        return False
    if role is Role.DEVICE:
        return parsed.device is None or parsed.device == device
    return True


class Path:
    """HTTP paths of the device API and of inference (contract, sections 3 and 4)."""

    ENROL = "/device/v1/enrol"
    TOKEN = "/device/v1/token"  # noqa: S105 - a path, not a secret
    MANIFEST = "/device/v1/manifests/{digest}"
    TRUST = "/device/v1/trust/{file}"
    CHUNK = "/device/v1/chunks/{digest}"
    CHUNK_BATCH = "/device/v1/chunks:batch"


class Header:
    """HTTP headers of inference; gRPC metadata and MQTT envelopes carry the same names in lower case."""

    REQUEST_ID = "X-Request-Id"
    DEADLINE_MS = "X-Tideline-Deadline-Ms"
    PRIORITY = "X-Tideline-Priority"
    PRIVACY = "X-Tideline-Privacy"
    TENANT = "X-Tideline-Tenant"
    WHERE = "X-Tideline-Where"
    HEDGED = "X-Tideline-Hedged"
    WHY = "X-Tideline-Why"
    MODEL = "X-Tideline-Model"
    QUEUE_MS = "X-Tideline-Queue-Ms"
    COMPUTE_MS = "X-Tideline-Compute-Ms"
    TRACEPARENT = "traceparent"
