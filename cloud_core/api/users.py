"""`/api/v1/users`: the people of a tenant."""

import msgspec

from cloud_core.api.paging import QUERY, after_of, limit_of, page_of
from cloud_core.api.passwords import checked_password
from cloud_core.api.routes import Call, Needs, Page, Reply, Route, Scope, absent, conflict
from cloud_core.decide.access import Resource, Role, Verb
from cloud_core.store import users
from cloud_core.store.users import User
from shared.protocol import names
from shared.protocol.errors import Refusal, Refused

PATH = "/api/v1/users"
PEOPLE = (Role.ADMIN, Role.OPERATOR, Role.VIEWER, Role.CLIENT)
"""Roles a person or a program may be given; devices enrol."""


class NewUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user to make."""

    name: str
    password: str
    role: Role = Role.VIEWER


class NewPassword(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another password."""

    password: str


class UserView(msgspec.Struct, frozen=True, kw_only=True):
    """One user."""

    name: str
    role: str
    created_at: float


def checked_role(role: Role) -> Role:
    """Refuse the role of devices, which no person has."""
    if role not in PEOPLE:
        raise Refused(
            "not a role of a user or token",
            kind=Refusal.UNPROCESSABLE,
            field="role",
            value=role.value,
            allowed=", ".join(PEOPLE),
        )
    return role


async def listed(call: Call) -> Reply:
    """A page of users."""
    limit = limit_of(call)
    found = await users.page(call.connection, call.tenant, after=after_of(call), limit=limit + 1)
    return Reply(value=page_of(found, limit, key=lambda user: user.name, view=_view))


async def hashed(call: Call) -> str:
    """Ahead of the transaction: the slow part."""
    body: NewUser | NewPassword = call.body
    return await call.api.passwords.hash(checked_password(body.password))


async def created(call: Call) -> Reply:
    """A new user."""
    body: NewUser = call.body
    name, role = names.checked("slug", body.name, field="name"), checked_role(body.role)
    user = await users.create(call.connection, call.tenant, name, role=role, password_hash=call.prepared, now=call.now)
    if user is None:
        raise conflict("there is a user of that name", field="name", value=name)
    return Reply(value=_view(user), status=201, location=f"{PATH}/{name}", name=name, detail={"role": role.value})


async def shown(call: Call) -> Reply:
    """One user."""
    return Reply(value=_view(await _found(call)))


async def changed_password(call: Call) -> Reply:
    """Another password for a user."""
    user = await _found(call)
    await users.set_password(call.connection, call.tenant, user.name, password_hash=call.prepared, now=call.now)
    return Reply()


async def deleted(call: Call) -> Reply:
    """No login any more; the last admin stays, so that nobody locks a tenant."""
    user = await _found(call)
    if user.role == Role.ADMIN and await users.with_role(call.connection, call.tenant, Role.ADMIN) == [user.name]:
        raise conflict("the last admin cannot go", field="user", value=user.name, code="last-admin")
    await users.disable(call.connection, call.tenant, user.name, now=call.now)
    return Reply()


async def _found(call: Call) -> User:
    name = call.segment("user")
    user = await users.get(call.connection, call.tenant, name)
    if user is None:
        raise absent("user", name)
    return user


def _view(user: User) -> UserView:
    return UserView(name=user.name, role=user.role, created_at=user.created_at)


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    read, create, update, delete = (
        Needs(verb, Resource.USERS) for verb in (Verb.READ, Verb.CREATE, Verb.UPDATE, Verb.DELETE)
    )
    one = PATH + "/{user}"
    return (
        Route(
            method="GET", path=PATH, access=read, scope=Scope.READ, run=listed, query=QUERY,
            summary="Users, by name", answer=Page[UserView],
        ),
        Route(
            method="POST", path=PATH, access=create, scope=Scope.WRITE, run=created, before=hashed, body=NewUser,
            status=201, summary="Make a user", answer=UserView,
        ),
        Route(method="GET", path=one, access=read, scope=Scope.READ, run=shown, summary="One user", answer=UserView),
        Route(
            method="PUT", path=one + "/password", access=update, scope=Scope.WRITE, run=changed_password, before=hashed,
            body=NewPassword, status=204, summary="Another password",
        ),
        Route(
            method="DELETE", path=one, access=delete, scope=Scope.WRITE, run=deleted, status=204,
            summary="Disable a user",
        ),
    )  # fmt: skip
