"""`/api/v1/tokens`: API tokens for programs and integrators; each is shown once."""

import uuid

import msgspec

from cloud_core.api.auth import hash_of, new_api_token
from cloud_core.api.paging import QUERY, after_of, limit_of, page_of
from cloud_core.api.routes import Call, Needs, Page, Reply, Route, Scope, absent
from cloud_core.api.users import checked_role
from cloud_core.decide.access import Resource, Role, Verb
from cloud_core.store import tokens
from cloud_core.store.tokens import Token
from shared.protocol import names
from shared.protocol.errors import Refused

PATH = "/api/v1/tokens"
LONGEST_S = 10 * 366 * 86400.0


class NewToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token to make; without `valid_s` it is good until it is revoked."""

    name: str
    role: Role = Role.CLIENT
    valid_s: float | None = None


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    """One token, without its secret."""

    id: str
    name: str
    role: str
    created_at: float
    expires_at: float | None


class TokenSecret(TokenView, frozen=True, kw_only=True):
    """A token as it is shown once."""

    token: str


async def listed(call: Call) -> Reply:
    """A page of tokens."""
    limit = limit_of(call)
    found = await tokens.page(call.connection, call.tenant, after=after_of(call), limit=limit + 1)
    return Reply(value=page_of(found, limit, key=lambda token: token.id, view=_view))


async def created(call: Call) -> Reply:
    """A new token."""
    body: NewToken = call.body
    name, role = names.checked("slug", body.name, field="name"), checked_role(body.role)
    if body.valid_s is not None and not 1 <= body.valid_s <= LONGEST_S:
        raise Refused("not a duration", field="valid_s", value=body.valid_s, allowed=f"1 to {LONGEST_S:.0f} s")
    secret = new_api_token()
    stored = await tokens.create(
        call.connection,
        call.tenant,
        str(uuid.uuid4()),
        name=name,
        role=role,
        token_hash=hash_of(secret),
        expires_at=None if body.valid_s is None else call.now + body.valid_s,
        now=call.now,
    )
    value = TokenSecret(token=secret, **msgspec.structs.asdict(_view(stored)))
    return Reply(
        value=value,
        status=201,
        location=f"{PATH}/{stored.id}",
        name=stored.id,
        detail={"name": name, "role": role.value},
    )


async def shown(call: Call) -> Reply:
    """One token."""
    return Reply(value=_view(await _found(call)))


async def deleted(call: Call) -> Reply:
    """Revoke a token."""
    token = await _found(call)
    await tokens.revoke(call.connection, call.tenant, token.id, now=call.now)
    return Reply()


async def _found(call: Call) -> Token:
    id_ = call.segment("token")
    token = await tokens.get(call.connection, call.tenant, id_)
    if token is None:
        raise absent("token", id_)
    return token


def _view(token: Token) -> TokenView:
    return TokenView(
        id=token.id, name=token.name, role=token.role, created_at=token.created_at, expires_at=token.expires_at
    )


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    read, create, delete = (Needs(verb, Resource.TOKENS) for verb in (Verb.READ, Verb.CREATE, Verb.DELETE))
    one = PATH + "/{token}"
    return (
        Route(
            method="GET", path=PATH, access=read, scope=Scope.READ, run=listed, query=QUERY,
            summary="API tokens, without their secrets", answer=Page[TokenView],
        ),
        Route(
            method="POST", path=PATH, access=create, scope=Scope.WRITE, run=created, body=NewToken, status=201,
            summary="Make an API token; the answer shows it once", answer=TokenSecret,
        ),
        Route(method="GET", path=one, access=read, scope=Scope.READ, run=shown, summary="One token", answer=TokenView),
        Route(
            method="DELETE", path=one, access=delete, scope=Scope.WRITE, run=deleted, status=204,
            summary="Revoke a token",
        ),
    )  # fmt: skip
