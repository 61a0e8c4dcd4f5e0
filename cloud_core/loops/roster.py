"""Roster: who may connect. Keeps Mosquitto's files true, and has the broker forget devices that are gone."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.broker import mosquitto
from cloud_core.config import Settings
from cloud_core.keys import Keys
from cloud_core.store import devices, events
from cloud_core.store.database import read
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Transient

POLL_S = 0.25
FULL_EVERY_S = 30.0
IRRELEVANT = ("generation", "blocked", "online", "offline", "lost", "reported", "telemetry")


class Roster:
    """Owner of what was last known of the devices' credentials."""

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        keys: Keys,
        *,
        gone: Callable[[Sequence[tuple[str, str]]], None],
        clock: Clock,
        log: Log,
    ) -> None:
        """`gone` is told of devices that had credentials and have none any more."""
        self._engine = engine
        self._folder = Path(settings.mosquitto_dir) if settings.mosquitto_dir else None
        self._pid_file = Path(settings.mosquitto_pid_file) if settings.mosquitto_pid_file else None
        self._password = keys.broker_password
        self._gone = gone
        self._clock = clock
        self._log = log
        self._held: frozenset[tuple[str, str]] = frozenset()
        self._owes_reload = False

    async def run(self) -> None:
        """For ever: look when a device may have come or gone, and every `FULL_EVERY_S`."""
        seen, full_at = 0, self._clock.monotonic()
        while True:
            try:
                async with read(self._engine) as connection:
                    newest, changed = await events.tenants_after(connection, seen, without=IRRELEVANT)
                if changed or self._clock.monotonic() >= full_at:
                    await self.refresh()
                    full_at = self._clock.monotonic() + FULL_EVERY_S
                seen = newest
            except Transient as error:
                self._log.warning("roster not refreshed", error=error.message)
            await asyncio.sleep(POLL_S)

    async def refresh(self) -> None:
        """Bring the files up to date with the database.

        Raises:
            Transient: the database cannot answer now.

        """
        async with read(self._engine) as connection:
            rows = await devices.credentials(connection)
        names = frozenset((row.tenant, row.device) for row in rows)
        self._gone(sorted(self._held - names))
        self._held = names
        if self._folder is None:
            return
        try:
            has_changed = await asyncio.to_thread(
                mosquitto.provision, self._folder, rows, service_password=self._password
            )
        except OSError as error:
            self._log.error("Mosquitto's files cannot be written", error=str(error))
            return
        if has_changed:
            self._log.info("Mosquitto's files written", devices=len(rows))
        self._owes_reload = self._owes_reload or has_changed
        if self._owes_reload and self._pid_file is not None:
            self._owes_reload = not mosquitto.reload(self._pid_file)
