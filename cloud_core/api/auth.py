"""Who is calling: `Authorization: Bearer` with an access token (JWT) or an API token, judged against the database.

A disabled user, a deleted device and a revoked token are refused at once here, whatever their token still says; callers that
ask thousands of times a second (the gateway) let the verdict stand for some seconds with `remember_s`.
All refusals are one and the same answer.
"""

import hashlib
import secrets
from collections.abc import Mapping

from aiohttp import hdrs, web
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.api.access_tokens import AccessTokens
from cloud_core.decide.access import Principal, Role
from cloud_core.store import devices, tokens, users
from cloud_core.store.database import Connection, read
from shared.io.clock import Clock
from shared.protocol.errors import Refusal, Refused

API_TOKEN = "tdl_"  # noqa: S105 - a prefix, not a secret
_LONGEST = 4096
_REMEMBERED = 10_000


def new_api_token() -> str:
    """A fresh API token: 32 random bytes behind a prefix that secret scanners can find."""
    return API_TOKEN + secrets.token_urlsafe(32)


def hash_of(token: str) -> str:
    """What is stored of a random token."""
    return hashlib.sha256(token.encode()).hexdigest()


def unauthenticated() -> Refused:
    """The one answer to everybody who is not let in."""
    return Refused("authentication failed", kind=Refusal.UNAUTHENTICATED)


class Authenticator:
    """Turns a bearer token into a principal."""

    def __init__(self, engine: AsyncEngine, access: AccessTokens, clock: Clock, *, remember_s: float = 0.0) -> None:
        self._engine = engine
        self._access = access
        self._clock = clock
        self._remember_s = remember_s
        self._known: dict[str, tuple[Principal, float]] = {}

    async def principal(self, request: web.Request) -> Principal:
        """Who sent this request.

        Raises:
            Refused: nobody we know.

        """
        return await self.told(request.headers)

    async def told(self, headers: Mapping[str, str]) -> Principal:
        """Who headers, or metadata, say sent what they came with.

        Raises:
            Refused: nobody we know.

        """
        scheme, _, token = headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() != "bearer":
            raise unauthenticated()
        return await self.bearer(token.strip())

    async def bearer(self, token: str) -> Principal:
        """Whom a bearer token speaks for.

        Raises:
            Refused: nobody we know.

        """
        if not 0 < len(token) <= _LONGEST:
            raise unauthenticated()
        now = self._clock.wall()
        known = self._known.get(hash_of(token))
        if known is not None and now < known[1] and (known[0].expires_at is None or now < known[0].expires_at):
            return known[0]
        async with read(self._engine) as connection:
            found = await self._looked_up(connection, token, now)
        if found is None:
            raise unauthenticated()
        if self._remember_s > 0:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[hash_of(token)] = (found, now + self._remember_s)
        return found

    async def _looked_up(self, connection: Connection, token: str, now: float) -> Principal | None:
        if token.startswith(API_TOKEN):
            bearer = await tokens.bearer(connection, hash_of(token), now=now)
            if bearer is None:
                return None
            return Principal(
                tenant=bearer.tenant,
                name=bearer.name,
                role=Role(bearer.role),
                kind="token",
                expires_at=bearer.expires_at,
            )
        principal = self._access.verify(token, now=now)
        if principal is None:
            return None
        if principal.kind == "device":
            device = await devices.get(connection, principal.tenant, principal.name)
            return principal if device is not None and device.public_key is not None else None
        user = await users.get(connection, principal.tenant, principal.name)
        return principal if user is not None and user.role == principal.role else None
