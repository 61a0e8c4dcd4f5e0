"""May this client connect?  Judged before the broker behind learns of the connection at all.

Invariants: nobody is anonymous; a client id belongs to its user, so nobody takes over another's connection; a will is published
only where its owner may publish; a deleted device is refused from the moment its deletion is committed. A busy database does not
lock a fleet out: who was known at the last refresh is let in on that, and everybody else is told to come again.
"""

import asyncio
import hmac
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.broker.connect import Connect
from cloud_core.broker.passwords import check_password
from cloud_core.broker.principal import CONTROL_PLANE, Act, Principal, may, owns_client_id, principal_of
from cloud_core.store import devices
from cloud_core.store.database import read
from shared.protocol.errors import Transient

LOOKUPS = 8
LOOKUP_S = 3.0


class Verdict(StrEnum):
    """Why a client is let in or not."""

    ACCEPTED = "accepted"
    ANONYMOUS = "anonymous"
    UNKNOWN = "unknown-user"
    PASSWORD = "wrong-password"  # noqa: S105 - a reason, not a secret
    CLIENT_ID = "foreign-client-id"
    WILL = "foreign-will"
    UNAVAILABLE = "unavailable"


CODES = {
    Verdict.ACCEPTED: 0,
    Verdict.CLIENT_ID: 2,
    Verdict.UNAVAILABLE: 3,
    Verdict.ANONYMOUS: 5,
    Verdict.UNKNOWN: 5,
    Verdict.PASSWORD: 5,
    Verdict.WILL: 5,
}
"""CONNACK return codes (section 3.2.2.3). An unknown user and a wrong password look alike from outside."""


class Judged(NamedTuple):
    """The verdict, and who it is where it is known."""

    verdict: Verdict
    principal: Principal | None = None


class Authenticator:
    """Owner of what is known of the devices' passwords."""

    def __init__(self, engine: AsyncEngine, *, service_password: str) -> None:
        self._engine = engine
        self._service_password = service_password.encode()
        self._known: dict[str, str] = {}
        self._lookups = asyncio.Semaphore(LOOKUPS)

    async def judge(self, connect: Connect) -> Judged:
        """The verdict on one CONNECT."""
        if connect.username is None or connect.password is None:
            return Judged(Verdict.ANONYMOUS)
        principal = principal_of(connect.username)
        if principal is None:
            return Judged(Verdict.UNKNOWN)
        verdict = await self._password(principal, connect.username, connect.password)
        if verdict is not Verdict.ACCEPTED:
            return Judged(verdict, principal)
        if not owns_client_id(connect.username, connect.client_id):
            return Judged(Verdict.CLIENT_ID, principal)
        if connect.will_topic is not None and not may(principal, Act.PUBLISH, connect.will_topic):
            return Judged(Verdict.WILL, principal)
        return Judged(Verdict.ACCEPTED, principal)

    async def refresh(self) -> frozenset[str]:
        """Read all credentials anew; the devices that are as they were at the last refresh, or new since.

        Raises:
            Transient: the database cannot answer now.

        """
        async with read(self._engine) as connection:
            found = await devices.credentials(connection)
        before = self._known
        self._known = {f"{one.tenant}/{one.device}": one.mqtt_password_hash for one in found}
        return frozenset(name for name, stored in self._known.items() if before.get(name, stored) == stored)

    async def _password(self, principal: Principal, username: str, password: str) -> Verdict:
        if principal == CONTROL_PLANE:
            good = hmac.compare_digest(password.encode(), self._service_password)
            return Verdict.ACCEPTED if good else Verdict.PASSWORD
        try:
            async with asyncio.timeout(LOOKUP_S), self._lookups, read(self._engine) as connection:
                held = await devices.credential(connection, str(principal.tenant), str(principal.device))
            stored = held.mqtt_password_hash if held is not None else None
        except (Transient, TimeoutError):
            stored = self._known.get(username)
            if stored is None:
                return Verdict.UNAVAILABLE
        if stored is None:
            return Verdict.UNKNOWN
        good = await asyncio.to_thread(check_password, password, stored)
        return Verdict.ACCEPTED if good else Verdict.PASSWORD
