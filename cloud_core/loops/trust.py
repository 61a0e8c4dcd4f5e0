"""Keeps every tenant's TUF metadata signed and far from its expiry; what it cannot sign itself it says early and often enough.

An expiry stops nothing that runs: devices say it, keep what they have, and install nothing new until there is fresh metadata.
"""

import asyncio

from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.store import events, tenants
from cloud_core.store.database import read, write
from cloud_core.trust.metadata import Lifetimes
from cloud_core.trust.repository import Repository, Standing
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Corrupt, Transient
from shared.protocol.trust import ROLES

EVERY_S = 30.0
LOOK_S = 1.0
"""How soon a version that was imported, and not published over the API, is signed."""
WARN = 0.25
"""An alarm begins when this share of a role's lifetime is left and nothing was signed anew."""


class TrustMetrics:
    """The loop's part of `/metrics`; over all tenants, the worst of each."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.left = Gauge(
            "tideline_trust_expires_seconds", "Seconds until TUF metadata expires", ["role"], registry=registry
        )
        self.unsigned = Gauge(
            "tideline_trust_unsigned", "Published versions that wait for the targets' signature", registry=registry
        )
        self.alarms = Gauge(
            "tideline_trust_alarms", "Roles of tenants that a person must sign or repair soon", registry=registry
        )


class TrustLoop:
    """Owner of the rhythm, and of what was said already."""

    def __init__(
        self, engine: AsyncEngine, repository: Repository, *, registry: CollectorRegistry, clock: Clock, log: Log
    ) -> None:
        self._engine = engine
        self._repository = repository
        self._metrics = TrustMetrics(registry)
        self._clock = clock
        self._log = log
        self._said: frozenset[tuple[str, str]] = frozenset()
        self._seen = 0

    async def run(self) -> None:
        """For ever."""
        look_at = self._clock.monotonic()
        while True:
            try:
                if await self._is_news() or self._clock.monotonic() >= look_at:
                    look_at = self._clock.monotonic() + EVERY_S
                    await self.look()
            except (Transient, OSError) as error:
                self._log.warning("trust metadata is not kept now", error=str(error))
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Once over all tenants."""
        async with read(self._engine) as connection:
            every = await tenants.every_name(connection)
        now, alarms, unsigned = self._clock.wall(), set[tuple[str, str]](), 0
        left: dict[str, float] = {}
        for tenant in every:
            try:
                standing = await self._kept(tenant, now)
            except Corrupt as error:
                # Of one tenant: the others are kept all the same.
                self._log.error("trust metadata cannot be signed", tenant=tenant, error=error.message)
                alarms.add((tenant, "keys"))
                continue
            unsigned += len(standing.unsigned)
            for role, seconds in expiring(standing, now).items():
                left[role] = min(seconds, left.get(role, seconds))
                if seconds < WARN * Lifetimes().of(role):
                    alarms.add((tenant, role))
        for role, seconds in left.items():
            self._metrics.left.labels(role).set(seconds)
        self._metrics.unsigned.set(unsigned)
        self._metrics.alarms.set(len(alarms))
        await self._say(frozenset(alarms), now)

    async def _is_news(self) -> bool:
        """Whether versions came or went since this was last asked."""
        async with read(self._engine) as connection:
            self._seen, is_news = await events.any_after(connection, self._seen, resource="versions")
        return is_news

    async def _kept(self, tenant: str, now: float) -> Standing:
        async with read(self._engine) as connection:
            due = await self._repository.is_due(connection, tenant, now=now)
        if due:
            async with write(self._engine) as connection:
                await self._repository.keep(connection, tenant, now=now)
        async with read(self._engine) as connection:
            gone = await self._repository.tidy(connection, tenant)
            standing = await self._repository.standing(connection, tenant)
        if due or gone:
            versions = {role: stored.version for role, stored in standing.files.items()}
            self._log.info("trust metadata signed", tenant=tenant, versions=versions, keys_removed=len(gone))
        return standing

    async def _say(self, alarms: frozenset[tuple[str, str]], now: float) -> None:
        """Each alarm once when it begins, and once when it is over."""
        for kind, pairs in (("expiring", alarms - self._said), ("renewed", self._said - alarms)):
            for tenant, role in sorted(pairs):
                say = self._log.error if kind == "expiring" else self._log.info
                say(f"trust metadata {kind}", tenant=tenant, role=role)
                async with write(self._engine) as connection:
                    await events.append(connection, tenant, kind=kind, resource="trust", name=role, now=now)
        self._said = alarms


def expiring(standing: Standing, now: float) -> dict[str, float]:
    """Seconds each role's newest metadata is still good for; what is not there is no longer good."""
    return {role: standing.files[role].expires_at - now if role in standing.files else 0.0 for role in ROLES}
