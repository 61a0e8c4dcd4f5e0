"""Who may use the gateway: every face asks here first and wants a bearer token; what it says is the tenant, never a header.

A database that is away must not stop inference: then an access token is believed on its signature and time alone, and an
API token for as long as it was known a moment ago. A disabled user is let in that much longer at the most.
"""

from collections.abc import Mapping

from aiohttp import hdrs, web

from cloud_core.api.access_tokens import AccessTokens
from cloud_core.api.auth import Authenticator, hash_of
from cloud_core.decide.access import Denied, Principal, Resource, Target, Verb, may
from shared.io.clock import Clock
from shared.protocol.errors import Refusal, Refused, Transient

_READS = ("/v2/repository/index",)
"""POST that only looks."""
_REMEMBERED = 10_000


class Access:
    """Judges the gateway's callers."""

    def __init__(
        self, authenticator: Authenticator, tokens: AccessTokens, clock: Clock, *, trust_s: float = 300.0
    ) -> None:
        """`trust_s`: how long an API token that was good stays so while the database is away."""
        self._authenticator = authenticator
        self._tokens = tokens
        self._clock = clock
        self._trust_s = trust_s
        self._good: dict[str, tuple[Principal, float]] = {}

    async def tenant(self, request: web.Request) -> str:
        """The tenant a request is made for: what every face asks first.

        Raises:
            Refused: nobody we know (401), or not permitted (403).
            Transient: the database, needed to say, is away.

        """
        reads = request.method in (hdrs.METH_GET, hdrs.METH_HEAD) or request.path in _READS
        return await self.tenant_in(request.headers, reads)

    async def tenant_in(self, headers: Mapping[str, str], reads: bool) -> str:
        """The tenant of a call with these headers, or metadata; `reads`: it only looks.

        Raises:
            Refused, Transient: as `tenant`.

        """
        principal = await self._principal(headers)
        verdict = may(principal, Verb.READ if reads else Verb.INFER, Target(principal.tenant, Resource.INFERENCE))
        if isinstance(verdict, Denied):
            raise Refused(
                f"role {principal.role} may not use inference",
                kind=Refusal.FORBIDDEN,
                field="role",
                value=principal.role.value,
            )
        return principal.tenant

    async def _principal(self, headers: Mapping[str, str]) -> Principal:
        try:
            principal = await self._authenticator.told(headers)
        except Transient:
            known = self._without_database(_token(headers))
            if known is None:
                raise
            return known
        if len(self._good) >= _REMEMBERED:
            self._good.clear()
        self._good[hash_of(_token(headers))] = (principal, self._clock.wall() + self._trust_s)
        return principal

    def _without_database(self, token: str) -> Principal | None:
        now = self._clock.wall()
        signed = self._tokens.verify(token, now=now)
        if signed is not None:
            return signed
        principal, until = self._good.get(hash_of(token), (None, 0.0))
        if principal is None or now >= until or (principal.expires_at is not None and now >= principal.expires_at):
            return None
        return principal


def _token(headers: Mapping[str, str]) -> str:
    return headers.get(hdrs.AUTHORIZATION, "").partition(" ")[2].strip()
