"""Who a connection speaks as, from its MQTT username; and what that principal may do, from the one table of topics."""

from enum import StrEnum
from typing import NamedTuple

from cloud_core.keys import SERVICE_USER
from shared.protocol import topics
from shared.protocol.names import SLUG
from shared.protocol.topics import Role

MOST_INGEST = 4
"""Processes that take telemetry beside the loops; each has a name of its own, because a broker lets one client have a name."""
SERVICE_ROLES = ("api", "gateway", "loops", *(f"ingest-{number}" for number in range(1, MOST_INGEST + 1)))
"""The control plane's processes that speak MQTT; each has username and client id `cloud-core/<role>`."""


class Act(StrEnum):
    """What a principal wants to do with a topic."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    RECEIVE = "receive"


class Principal(NamedTuple):
    """The control plane (no tenant) or one device."""

    role: Role
    tenant: str | None
    device: str | None


CONTROL_PLANE = Principal(Role.CLOUD, None, None)


def service_name(role: str) -> str:
    """Username and client id of one process of the control plane; Mosquitto can tie one to the other only where they are equal."""
    return f"{SERVICE_USER}/{role}"


def principal_of(username: str) -> Principal | None:
    """Whose username this is; None where nobody can have it."""
    first, slash, second = username.partition("/")
    if first == SERVICE_USER:
        return CONTROL_PLANE if not slash or second in SERVICE_ROLES else None
    if SLUG.fullmatch(first) and SLUG.fullmatch(second):
        return Principal(Role.DEVICE, first, second)
    return None


def owns_client_id(username: str, client_id: str) -> bool:
    """Whether this user may connect with this client id: its own name; the bare service user, any of its roles'."""
    return client_id == username or (username == SERVICE_USER and client_id.startswith(f"{SERVICE_USER}/"))


def may(principal: Principal, act: Act, topic: str) -> bool:
    """May `principal` do this with the topic (for SUBSCRIBE: the filter)?"""
    if act is Act.PUBLISH:
        return topics.may_publish(principal.role, tenant=principal.tenant, device=principal.device, text=topic)
    return topics.may_subscribe(principal.role, tenant=principal.tenant, device=principal.device, text=topic)
