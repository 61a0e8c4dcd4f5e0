"""Tells every tenant's fleet how much the cloud can take: reads replicas' loads, decides, publishes retained with QoS 0.

Nothing depends on a message arriving: each is valid for a while only, and the next one says everything again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import aiohttp

from cloud_core.decide import pressure as decide
from cloud_core.gateway.catalog import GatewayCatalog
from cloud_core.gateway.fleet import Fleet
from cloud_core.gateway.metrics import GatewayMetrics
from cloud_core.replicas.load import PATH, ModelLoad
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.envelope import decoded, seal
from shared.protocol.errors import Refused, Transient
from shared.protocol.pressure import KIND, Pressure
from shared.protocol.topics import topic
from shared.serving.catalog import Listed

EVERY_S = 1.0
_READ_TIMEOUT_S = 0.8

Publish = Callable[[str, bytes], Awaitable[None]]


class PressurePublisher:
    """Owns what was said last, by tenant."""

    def __init__(
        self,
        fleet: Fleet,
        catalog: GatewayCatalog,
        session: aiohttp.ClientSession,
        *,
        publish: Publish,
        metrics: GatewayMetrics,
        log: Log,
        clock: Clock,
        limits: decide.Limits = decide.Limits(),  # noqa: B008 - frozen
    ) -> None:
        """`publish(topic, payload)` sends one retained message with QoS 0, and raises `Transient` where it cannot."""
        self._fleet = fleet
        self._catalog = catalog
        self._session = session
        self._publish = publish
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._limits = limits
        self._said: dict[str, tuple[Pressure, float]] = {}

    async def run(self) -> None:
        """Look every second, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    def forget(self) -> None:
        """The broker may have lost what was retained: everything is worth saying again."""
        self._said.clear()

    async def look(self) -> None:
        """Read every replica once and say what is worth saying."""
        live = [name for name in self._fleet.members if self._fleet.is_live(name)]
        read = dict(zip(live, await asyncio.gather(*(self._read(name) for name in live)), strict=True))
        now, wall = self._clock.monotonic(), self._clock.wall()
        tenants: dict[str, list[Listed]] = {}
        for listed in self._catalog.models():
            tenants.setdefault(listed.tenant, []).append(listed)
        loads = {
            (name, load.tenant, load.model, load.version): decide.Load(expected_wait=load.expected_wait_s)
            for name, each in read.items()
            for load in each
        }
        for tenant, models in tenants.items():
            current = decide.pressure(_by_model(tenant, models, loads), now=wall, limits=self._limits)
            last, at = self._said.get(tenant, (None, now))
            verdict = decide.worth_saying(last, current, since=now - at, limits=self._limits)
            if isinstance(verdict, decide.Publish):
                await self._say(tenant, current, verdict.reason, now=now, wall=wall)

    async def _say(self, tenant: str, current: Pressure, reason: decide.Reason, *, now: float, wall: float) -> None:
        # Short numbers: this goes to every device of the tenant, and to an idle one it is a third of what it hears.
        payload = seal(KIND, current, id=f"{wall:.0f}", now=round(wall, 3), expires_at=current.valid_until)
        try:
            await self._publish(topic("pressure", tenant=tenant), payload)
        except Transient as error:
            self._log.debug("pressure not told", tenant=tenant, error=error.message)
            return
        self._said[tenant] = (current, now)
        self._metrics.told_pressure(reason.value)

    async def _read(self, name: str) -> tuple[ModelLoad, ...]:
        url = self._fleet.members[name].row.url
        try:
            timeout = aiohttp.ClientTimeout(total=_READ_TIMEOUT_S)
            async with self._session.get(url + PATH, timeout=timeout) as answer:
                return decoded(await answer.read(), tuple[ModelLoad, ...]) if answer.status == 200 else ()
        except (aiohttp.ClientError, TimeoutError, OSError, Refused):
            # A replica that cannot be asked has no headroom to speak of; requests find out about it themselves.
            return ()


def _by_model(
    tenant: str, listed: list[Listed], loads: Mapping[tuple[str, str, str, str], decide.Load]
) -> dict[str, list[decide.Load]]:
    """Loads by model name: every version of it on every replica."""
    found: dict[str, list[decide.Load]] = {each.name: [] for each in listed}
    for (_, of, model, _), load in loads.items():
        if of == tenant and model in found:
            found[model].append(load)
    return found
