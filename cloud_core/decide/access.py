"""Who may do what: role-based, inside one tenant, denied unless a row of `GRANTS` says otherwise. Pure."""

from collections.abc import Mapping, Set
from enum import StrEnum

import msgspec


class Role(StrEnum):
    """What a principal was made for."""

    ADMIN = "admin"
    OPERATOR = "operator"
    VIEWER = "viewer"
    DEVICE = "device"
    CLIENT = "client"


class Verb(StrEnum):
    """What is done to a resource."""

    READ = "read"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    INFER = "infer"


class Resource(StrEnum):
    """What things are done to."""

    MODELS = "models"
    VERSIONS = "versions"
    CHUNKS = "chunks"
    IMPORTS = "imports"
    DEVICES = "devices"
    GROUPS = "groups"
    POLICIES = "policies"
    ASSIGNMENTS = "assignments"
    ROLLOUTS = "rollouts"
    REPLICAS = "replicas"
    USERS = "users"
    TOKENS = "tokens"
    TENANTS = "tenants"
    AUDIT = "audit"
    EVENTS = "events"
    TELEMETRY = "telemetry"
    TRUST = "trust"
    """The TUF repository: who may say what devices may install."""
    CONTENT = "content"
    """Manifests, chunks and TUF metadata, as devices fetch them."""
    INFERENCE = "inference"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who proved who they are. `kind` is user, token or device; `expires_at` ends the proof."""

    tenant: str
    name: str
    role: Role
    kind: str = "user"
    expires_at: float | None = None

    @property
    def label(self) -> str:
        """How the audit names them."""
        return f"{self.kind}:{self.name}"


class Target(msgspec.Struct, frozen=True):
    """What a principal asks for: a kind of resource of one tenant."""

    tenant: str
    resource: Resource


class Why(StrEnum):
    """What a verdict follows from."""

    GRANTED = "granted"
    OTHER_TENANT = "other-tenant"
    ROLE = "role"


class Allowed(msgspec.Struct, frozen=True):
    """Go on."""

    reason: Why = Why.GRANTED


class Denied(msgspec.Struct, frozen=True):
    """No, and why."""

    reason: Why


_ALL = frozenset(Resource)
_FLEET = frozenset({
    Resource.MODELS, Resource.VERSIONS, Resource.CHUNKS, Resource.DEVICES, Resource.GROUPS, Resource.POLICIES,
    Resource.ASSIGNMENTS, Resource.ROLLOUTS, Resource.IMPORTS,
})  # fmt: skip
_SECRET = frozenset({Resource.USERS, Resource.TOKENS, Resource.AUDIT})
_SEEN = _ALL - _SECRET - {Resource.INFERENCE, Resource.CONTENT, Resource.CHUNKS}
_INFER = frozenset({Resource.INFERENCE})

GRANTS: Mapping[Role, Mapping[Verb, Set[Resource]]] = {
    Role.ADMIN: {
        Verb.READ: _ALL,
        Verb.CREATE: _FLEET | {Resource.USERS, Resource.TOKENS, Resource.TRUST},
        Verb.UPDATE: _FLEET | {Resource.USERS, Resource.TOKENS, Resource.TRUST},
        Verb.DELETE: _FLEET | {Resource.USERS, Resource.TOKENS},
        Verb.INFER: _INFER,
    },
    Role.OPERATOR: {
        Verb.READ: _SEEN | {Resource.CHUNKS, Resource.CONTENT, Resource.INFERENCE, Resource.AUDIT},
        Verb.CREATE: _FLEET,
        Verb.UPDATE: _FLEET,
        Verb.DELETE: _FLEET,
        Verb.INFER: _INFER,
    },
    Role.VIEWER: {Verb.READ: _SEEN},
    Role.DEVICE: {Verb.READ: frozenset({Resource.CONTENT, Resource.INFERENCE}), Verb.INFER: _INFER},
    Role.CLIENT: {Verb.READ: _INFER, Verb.INFER: _INFER},
}


def may(principal: Principal, verb: Verb, target: Target) -> Allowed | Denied:
    """May this principal do this to that?"""
    if principal.tenant != target.tenant:
        return Denied(Why.OTHER_TENANT)
    if target.resource not in GRANTS.get(principal.role, {}).get(verb, frozenset()):
        return Denied(Why.ROLE)
    return Allowed()
