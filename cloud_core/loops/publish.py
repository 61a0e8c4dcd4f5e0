"""Publish: what committed changes owe to devices goes out, and levels go out again.

Invariants:

* a row is marked sent after the broker's PUBACK; a crash in between sends it twice, and receivers order by what is inside;
* of a device's desired state only the newest is ever published, and by one task, so an older one never replaces it at the broker;
* a PUBACK proves little: after each connection all levels are sent again, since a broker may have lost what it retained, and a
  device that is there but has not taken its newest generation after `REPAIR_AFTER_S` gets it again.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.loops.metrics import LoopMetrics
from cloud_core.store import generations, outbox, presence, tenants
from cloud_core.store.database import read, write
from cloud_core.store.generations import Stored
from cloud_core.store.outbox import Pending
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol import commands, desired
from shared.protocol.commands import Command, SignedCommand
from shared.protocol.desired import Order
from shared.protocol.envelope import seal
from shared.protocol.errors import Transient
from shared.protocol.topics import BY_NAME, topic

POLL_S = 0.25
CHUNK = 100
IN_FLIGHT = 20
RESEND_PER_S = 500.0
REPAIR_EVERY_S = 15.0
REPAIR_AFTER_S = 15.0
Name = tuple[str, str]
Send = Callable[..., Awaitable[None]]


class _Target(msgspec.Struct, frozen=True):
    """The one field of a report that says which generation the device has accepted."""

    target: Order | None = None


class Publish:
    """Owner of what is still to be sent again on this connection."""

    def __init__(self, engine: AsyncEngine, *, metrics: LoopMetrics, clock: Clock, log: Log) -> None:
        self._engine = engine
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._is_new_session = asyncio.Event()
        self._again: deque[Name] = deque()
        self._cleared: deque[Name] = deque()

    def connected(self) -> None:
        """A new session with the broker: it may know nothing."""
        self._is_new_session.set()

    def clear(self, names: Sequence[Name]) -> None:
        """These devices are gone: the broker need not keep anything for them."""
        self._cleared.extend(names)

    async def run(self, send: Send, wait_connected: Callable[[], Awaitable[None]]) -> None:
        """For ever, while there is a connection; `send` is `MqttLink.publish`."""
        repair_at = self._clock.monotonic() + REPAIR_EVERY_S
        while True:
            await wait_connected()
            try:
                if self._is_new_session.is_set():
                    self._is_new_session.clear()
                    self._again = deque(await self._everyone())
                sent = await self.send_owed(send)
                await self._send_again(send)
                if self._clock.monotonic() >= repair_at:
                    self._again.extend(await self._behind())
                    repair_at = self._clock.monotonic() + REPAIR_EVERY_S
            except Transient as error:
                self._log.warning("not published", error=error.message)
                sent = 0
            if not sent and not self._again:
                await asyncio.sleep(POLL_S)
            elif not sent:
                await asyncio.sleep(CHUNK / RESEND_PER_S)

    async def send_owed(self, send: Send) -> int:
        """Send one chunk of the outbox; how many rows are done with.

        Raises:
            Transient: no connection or database now; what was not marked is sent again.

        """
        async with read(self._engine) as connection:
            rows = await outbox.unsent(connection, limit=CHUNK)
            self._metrics.outbox.set(await outbox.depth(connection) if rows else 0)
        if not rows:
            return 0
        now = self._clock.wall()
        await self._levels(
            send, list(dict.fromkeys((row.tenant, row.device) for row in rows if row.kind == desired.KIND))
        )
        orders = [row for row in rows if row.kind == commands.KIND and not _has_expired(row, now)]
        await _paced([partial(self._order, send, row) for row in orders])
        async with write(self._engine) as connection:
            await outbox.mark_sent(connection, [row.id for row in rows], now=now)
        return len(rows)

    async def _send_again(self, send: Send) -> None:
        while self._cleared:
            tenant, device = self._cleared[0]
            await send(topic("desired", tenant=tenant, device=device), b"", retain=True)
            self._cleared.popleft()
        names = [self._again.popleft() for _ in range(min(CHUNK, len(self._again)))]
        try:
            await self._levels(send, names)
        except Transient:
            self._again.extendleft(reversed(names))
            raise

    async def _levels(self, send: Send, names: Sequence[Name]) -> None:
        """Publish the newest generation of each device that is still there."""
        if not names:
            return
        async with read(self._engine) as connection:
            there = await presence.known(connection, names)
            stored = [await generations.newest(connection, *name) for name in names if name in there]
        await _paced([partial(self._level, send, one) for one in stored if one is not None])

    async def _level(self, send: Send, stored: Stored) -> None:
        payload = seal(desired.KIND, stored.signed, id=str(uuid.uuid4()), now=self._clock.wall())
        row = BY_NAME["desired"]
        await send(
            topic(row.name, tenant=stored.tenant, device=stored.device), payload, qos=row.qos, retain=row.retained
        )
        self._metrics.count(desired.KIND, "sent")

    async def _order(self, send: Send, row: Pending) -> None:
        payload = seal(commands.KIND, msgspec.Raw(row.payload.encode()), id=str(uuid.uuid4()), now=self._clock.wall())
        await send(topic("command", tenant=row.tenant, device=row.device), payload)
        self._metrics.count(commands.KIND, "sent")

    async def _everyone(self) -> list[Name]:
        async with read(self._engine) as connection:
            return [
                (tenant, device)
                for tenant in await tenants.every_name(connection)
                for device in await generations.newest_in(connection, tenant)
            ]

    async def _behind(self) -> list[Name]:
        """Devices that are there and have not taken a generation that was made a while ago."""
        found: list[Name] = []
        made_before = self._clock.wall() - REPAIR_AFTER_S
        async with read(self._engine) as connection:
            for tenant in await tenants.every_name(connection):
                reports = await presence.reports(connection, tenant)
                for device, newest in (await generations.newest_in(connection, tenant)).items():
                    text = reports.get(device)
                    if text is None or newest.created_at > made_before:
                        continue
                    taken = msgspec.json.decode(text, type=_Target).target
                    if taken is None or taken < newest.order:
                        found.append((tenant, device))
        return found


def _has_expired(row: Pending, now: float) -> bool:
    signed = msgspec.json.decode(row.payload, type=SignedCommand)
    return now >= msgspec.json.decode(signed.payload, type=Command).expires_at


async def _paced(calls: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Await all calls, `IN_FLIGHT` at a time; the first failure ends it."""
    for start in range(0, len(calls), IN_FLIGHT):
        await asyncio.gather(*(call() for call in calls[start : start + IN_FLIGHT]))
