"""`/api/v1/login`: a name and a password in, a short-lived access token out."""

import msgspec

from cloud_core.api.auth import unauthenticated
from cloud_core.api.passwords import LONGEST
from cloud_core.api.routes import Call, Needs, Open, Reply, Route, Scope
from cloud_core.decide.access import Principal, Resource, Role, Verb
from cloud_core.store import audit, users
from cloud_core.store.database import read, write
from cloud_core.store.tenants import DEFAULT

PATH = "/api/v1/login"


class Login(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who, and the proof."""

    name: str
    password: str
    tenant: str = DEFAULT


class LoginAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The token for `Authorization: Bearer`, until `expires_at` (Unix seconds)."""

    token: str
    expires_at: float
    tenant: str
    name: str
    role: str


class Self(msgspec.Struct, frozen=True, kw_only=True):
    """Who the caller is."""

    tenant: str
    name: str
    role: str
    kind: str
    expires_at: float | None


async def login(call: Call) -> Reply:
    """Exchange a password for a token; every failure is the same answer after the same work."""
    body: Login = call.body
    if len(body.password) > LONGEST:
        raise unauthenticated()
    async with read(call.api.engine) as connection:
        known = await users.login(connection, body.tenant, body.name)
    if not await call.api.passwords.check(body.password, known.password_hash if known else None) or known is None:
        raise unauthenticated()
    principal = Principal(tenant=body.tenant, name=known.name, role=Role(known.role))
    token, expires_at = call.api.access.mint(principal, now=call.now, valid_s=call.api.settings.access_token_s)
    async with write(call.api.engine) as connection:
        await audit.append(
            connection,
            principal.tenant,
            principal=principal.label,
            verb="login",
            resource=Resource.USERS,
            name=known.name,
            now=call.now,
        )
    return Reply(
        value=LoginAnswer(
            token=token, expires_at=expires_at, tenant=principal.tenant, name=principal.name, role=principal.role
        )
    )


async def shown(call: Call) -> Reply:
    """Who am I?"""
    who = call.principal
    return Reply(value=Self(tenant=who.tenant, name=who.name, role=who.role, kind=who.kind, expires_at=who.expires_at))


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    return (
        Route(
            method="POST", path=PATH, access=Open("the password in the body is the proof"), scope=Scope.NONE, run=login,
            body=Login, max_body=8192, summary="Log in", answer=LoginAnswer,
        ),
        Route(
            method="GET", path="/api/v1/self", access=Needs(Verb.READ, Resource.TENANTS), scope=Scope.NONE, run=shown,
            summary="Who the caller is", answer=Self,
        ),
    )  # fmt: skip
