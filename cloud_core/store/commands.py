"""What the control plane's own command line does to the registry, and what its first start makes."""

import secrets
import uuid

from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.api.auth import hash_of, new_api_token
from cloud_core.api.passwords import Passwords, checked_password
from cloud_core.api.users import checked_role
from cloud_core.config import Settings
from cloud_core.decide.access import Role
from cloud_core.keys import Keys
from cloud_core.store import audit, control, tenants, tokens, users
from cloud_core.store.database import Connection, write
from shared.protocol import names
from shared.protocol.errors import Refusal, Refused

PRINCIPAL = "command-line"
ADMIN = "admin"


async def ensure_first_run(engine: AsyncEngine, settings: Settings, keys: Keys, now: float) -> str | None:
    """Make tenant `default` and its user `admin` where the database is new.

    Returns the password that was made up, to be shown once; None where the settings gave one or nothing was to be made.
    Any number of processes may call this at the same time.
    """
    async with write(engine) as connection:
        await control.control_epoch(connection)
        if await tenants.exists(connection, tenants.DEFAULT):
            return None
    password = settings.admin_password or secrets.token_urlsafe(16)
    hashed = await Passwords().hash(checked_password(password, field="admin_password"))
    async with write(engine) as connection:
        if not await tenants.create(connection, tenants.DEFAULT, now=now):
            return None
        await users.create(connection, tenants.DEFAULT, ADMIN, role=Role.ADMIN, password_hash=hashed, now=now)
        detail = {"generation_key": keys.generation.key_id}
        await _audited(connection, tenants.DEFAULT, verb="create", resource="users", name=ADMIN, now=now, detail=detail)
    return None if settings.admin_password else password


async def add_user(engine: AsyncEngine, *, tenant: str, name: str, role: str, password: str, now: float) -> str:
    """A new user of `tenant`, which is made where it is new; returns the password, made up where it was empty.

    Raises:
        Refused: a name, role or password that cannot be, or there is a user of that name.

    """
    names.checked("slug", tenant, field="tenant")
    names.checked("slug", name, field="name")
    checked = _role(role)
    password = password or secrets.token_urlsafe(16)
    hashed = await Passwords().hash(checked_password(password))
    async with write(engine) as connection:
        await tenants.create(connection, tenant, now=now)
        if await users.create(connection, tenant, name, role=checked, password_hash=hashed, now=now) is None:
            raise Refused("there is a user of that name", kind=Refusal.CONFLICT, field="name", value=name)
        await _audited(connection, tenant, verb="create", resource="users", name=name, now=now, detail={"role": role})
    return password


async def create_token(
    engine: AsyncEngine, *, tenant: str, name: str, role: str, valid_s: float | None, now: float
) -> str:
    """A new API token of `tenant`; the only time it is seen.

    Raises:
        Refused: no such tenant, or a name, role or duration that cannot be.

    """
    names.checked("slug", name, field="name")
    checked = _role(role)
    if valid_s is not None and not valid_s > 0:
        raise Refused("not a duration", field="valid_s", value=valid_s, allowed="above 0")
    secret, id_ = new_api_token(), str(uuid.uuid4())
    async with write(engine) as connection:
        if not await tenants.exists(connection, tenant):
            raise Refused("no such tenant", kind=Refusal.NOT_FOUND, field="tenant", value=tenant)
        await tokens.create(
            connection,
            tenant,
            id_,
            name=name,
            role=checked,
            token_hash=hash_of(secret),
            expires_at=None if valid_s is None else now + valid_s,
            now=now,
        )
        detail = {"name": name, "role": role}
        await _audited(connection, tenant, verb="create", resource="tokens", name=id_, now=now, detail=detail)
    return secret


def _role(text: str) -> Role:
    try:
        return checked_role(Role(text))
    except ValueError as error:
        allowed = "admin, operator, viewer, client"
        raise Refused("unknown role", field="role", value=text, allowed=allowed) from error


async def _audited(
    connection: Connection, tenant: str, *, verb: str, resource: str, name: str, now: float, detail: dict[str, str]
) -> None:
    await audit.append(
        connection, tenant, principal=PRINCIPAL, verb=verb, resource=resource, name=name, now=now, detail=detail
    )
