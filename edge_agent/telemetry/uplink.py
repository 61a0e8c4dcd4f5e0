"""Telemetry on its way: every interval a sample into the spool; whenever there is a connection, the oldest out, one batch at a time.

Invariants: the next batch is sent only when the one before was acknowledged, so a watermark never covers a sample that was not
sent; what is not acknowledged in `ACK_TIMEOUT_S` is sent again, and the cloud stores it once.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from edge_agent.decide.retention import Reason
from edge_agent.telemetry.growth import Growth
from edge_agent.telemetry.host import HostSampler
from edge_agent.telemetry.metrics import Interval
from edge_agent.telemetry.spool import Spool
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Transient
from shared.protocol.telemetry import Ack, Batch, Event, Host, Sample

QUIET_SAMPLES = 2
"""A sample that says nothing of note waits until there are this many: an idle device's bytes are mostly TCP's and MQTT's."""
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
        growth: Growth,
        host: HostSampler,
        *,
        every: float,
        clock: Clock,
        log: Log,
        dropped: Callable[[str, int], None],
        ack_timeout: float = ACK_TIMEOUT_S,
        quiet: int = QUIET_SAMPLES,
    ) -> None:
        """`every` in seconds; `dropped` counts lost samples by reason; `quiet` samples with nothing to say go together."""
        self._spool = spool
        self._interval = interval
        self._growth = growth
        self._host = host
        self._every = every
        self._clock = clock
        self._log = log
        self._dropped = dropped
        self._ack_timeout = ack_timeout
        self._began = round(clock.wall(), 3)
        self._wake = asyncio.Event()
        self._watermark = (0, 0)
        self._quiet = quiet
        self._held = quiet
        """Samples spooled since one was to be sent; the first of a run is not held back."""
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
        """Close the running interval and spool it; events, which are kept the longest, by themselves."""
        host = await asyncio.to_thread(self._host.sample)
        began, self._began = self._began, round(self._clock.wall(), 3)
        taken, events = self._taken(began, self._began, host), self._interval.take_events()
        if events:
            await self._spooled(_of_events(events, host))
        await self._spooled(taken)

    def _taken(self, began: float, ended: float, host: Host) -> Sample:
        """All that was counted in the interval; `seq` is the spool's to give."""
        requests, shed = self._interval.take()
        confidence, scores = self._interval.scores.take()
        steps, converged = self._interval.take_convergence()
        sample = Sample(
            seq=0,
            # A clock that was set back makes an interval of no length, not one that ends before it begins.
            started_at=min(began, ended),
            ended_at=ended,
            host=host,
            requests=requests,
            shed=shed,
            shadows=self._interval.take_shadows(),
            work=self._growth.work(confidence),
            scores=scores,
            disagreements=self._interval.take_disagreements(),
            cache=self._growth.cache(),
            steps=steps,
        )
        return sample if converged is None else msgspec.structs.replace(sample, converged=converged)

    async def _spooled(self, sample: Sample) -> None:
        def make(seq: int, dropped: dict[str, int]) -> Sample:
            return msgspec.structs.replace(sample, seq=seq, dropped=dropped)

        try:
            spooled, pushed = await asyncio.to_thread(self._spool.append, make)
        except Transient as error:
            self._dropped(Reason.STORAGE.value, 1)
            self._log.warning("telemetry sample not spooled", error=error.message)
            return
        for reason, count in pushed.items():
            self._dropped(reason, count)
        self._held += 1
        if self._held >= self._quiet or not _is_quiet(spooled):
            self._held = 0
            self._wake.set()

    async def acknowledged(self, ack: Ack) -> None:
        """The cloud has everything of the epoch up to the watermark."""
        trimmed = await asyncio.to_thread(self._spool.trim, ack)
        self._watermark = max(self._watermark, (ack.epoch, ack.seq))
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
            self._log.info("telemetry not acknowledged in time", epoch=last[0], seq=last[1])
            # Again, with the next sample or connection at the latest: an ingest that is down is not hammered.
            return False
        return True

    async def _publish_oldest(self, publish: Publish) -> tuple[int, int] | None:
        """Epoch and highest seq of what was sent."""
        try:
            batch = await asyncio.to_thread(self._spool.oldest, most=BATCH_SAMPLES, most_bytes=BATCH_BYTES)
            if batch is None:
                return None
            await publish(batch)
        except Transient as error:
            self._log.debug("telemetry not sent", error=error.message)
            return None
        return batch.epoch, batch.samples[-1].seq


def _is_quiet(sample: Sample) -> bool:
    """Whether it says how the host is doing, and nothing else."""
    bare = Sample(seq=sample.seq, started_at=sample.started_at, ended_at=sample.ended_at, host=sample.host)
    return sample == bare


def _of_events(events: tuple[Event, ...], host: Host) -> Sample:
    times = [event.at for event in events]
    return Sample(seq=0, started_at=min(times), ended_at=max(times), host=host, events=events)
