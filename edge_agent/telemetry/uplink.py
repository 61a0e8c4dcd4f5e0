"""Telemetry on its way: every interval a sample into the spool; whenever there is a connection, the oldest out, one batch at a time.

Invariants: the next batch is sent only when the one before was acknowledged, so a watermark never covers a sample that was not
sent; what is not acknowledged in `ACK_TIMEOUT_S` is sent again, and the cloud stores it once.
"""

import asyncio
from collections.abc import Awaitable, Callable

from edge_agent.telemetry.host import HostSampler
from edge_agent.telemetry.metrics import Interval
from edge_agent.telemetry.spool import STORAGE, Spool
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Transient
from shared.protocol.telemetry import Ack, Batch, Sample

ACK_TIMEOUT_S = 10.0
BATCH_SAMPLES = 100
BATCH_BYTES = 256 * 1024

Publish = Callable[[Batch], Awaitable[None]]
"""Sends one batch; raises `Transient` where there is no connection."""


class Uplink:
    """Owner of the sampling rhythm and of what is on its way."""

    def __init__(
        self,
        spool: Spool,
        interval: Interval,
        host: HostSampler,
        *,
        every: float,
        clock: Clock,
        log: Log,
        dropped: Callable[[str, int], None],
        ack_timeout: float = ACK_TIMEOUT_S,
    ) -> None:
        """`every` in seconds; `dropped` counts lost samples by reason."""
        self._spool = spool
        self._interval = interval
        self._host = host
        self._every = every
        self._clock = clock
        self._log = log
        self._dropped = dropped
        self._ack_timeout = ack_timeout
        self._began = clock.wall()
        self._wake = asyncio.Event()
        self._watermark = 0
        self._acked = asyncio.Event()

    async def sample_forever(self) -> None:
        """One sample each interval, on a rhythm that does not drift."""
        due = self._clock.monotonic() + self._every
        while True:
            await asyncio.sleep(max(0.0, due - self._clock.monotonic()))
            # After a stall (suspend, slow disk) the rhythm starts anew instead of catching up.
            due = max(due + self._every, self._clock.monotonic())
            await self.sample()

    async def sample(self) -> None:
        """Close the running interval and spool it."""
        host = await asyncio.to_thread(self._host.sample)
        requests, shed = self._interval.take()
        shadows = self._interval.take_shadows()
        began, self._began = self._began, self._clock.wall()
        ended = self._began

        def make(seq: int, dropped: dict[str, int]) -> Sample:
            return Sample(
                seq=seq,
                started_at=began,
                ended_at=ended,
                host=host,
                requests=requests,
                shed=shed,
                dropped=dropped,
                shadows=shadows,
            )

        try:
            _, pushed = await asyncio.to_thread(self._spool.append, make)
        except Transient as error:
            self._dropped(STORAGE, 1)
            self._log.warning("telemetry sample not spooled", error=error.message)
            return
        for reason, count in pushed.items():
            self._dropped(reason, count)
        self._wake.set()

    async def acknowledged(self, ack: Ack) -> None:
        """The cloud has everything up to the watermark."""
        trimmed = await asyncio.to_thread(self._spool.trim, ack)
        if ack.epoch == self._spool.epoch and ack.seq > self._watermark:
            self._watermark = ack.seq
        if trimmed:
            self._acked.set()

    def connected(self) -> None:
        """There is a connection: send what waits now."""
        self._wake.set()

    async def send_forever(self, publish: Publish) -> None:
        """Send the oldest batch, wait for its acknowledgement, and so on; without a connection, wait for one."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while await self._send_one(publish):
                pass

    async def flush(self, publish: Publish | None) -> None:
        """At the end: the last interval to disk, and out where somebody listens; what is not acknowledged is sent next time."""
        await self.sample()
        if publish is not None:
            await self._publish_oldest(publish)

    async def _send_one(self, publish: Publish) -> bool:
        """Whether a batch was acknowledged, so that the next may go."""
        self._acked.clear()
        last = await self._publish_oldest(publish)
        if last is None:
            return False
        try:
            async with asyncio.timeout(self._ack_timeout):
                while self._watermark < last:
                    await self._acked.wait()
                    self._acked.clear()
        except TimeoutError:
            self._log.info("telemetry not acknowledged in time", seq=last)
            # Again, with the next sample or connection at the latest: an ingest that is down is not hammered.
            return False
        return True

    async def _publish_oldest(self, publish: Publish) -> int | None:
        try:
            samples = await asyncio.to_thread(self._spool.oldest, most=BATCH_SAMPLES, most_bytes=BATCH_BYTES)
            if not samples:
                return None
            await publish(Batch(epoch=self._spool.epoch, samples=samples))
        except Transient as error:
            self._log.debug("telemetry not sent", error=error.message)
            return None
        return samples[-1].seq
