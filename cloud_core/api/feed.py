"""One poller per process over the events table, and the streams it feeds.

Invariants:

* a stream gets every event of its tenant behind the id it starts from, once, in order: it joins the poller first and then
  reads what was before from the table;
* a stream that cannot keep up is ended, not waited for; its client resumes from the last id it has.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.store import events
from cloud_core.store.database import read
from cloud_core.store.events import EVERYONE, Event
from shared.io.logs import Log
from shared.protocol.errors import Transient

POLL_S = 0.3
BATCH = 500
BEHIND = 1000
"""Events a stream may lie behind."""


class Stream:
    """One subscriber: events of its tenant as they come."""

    def __init__(self, tenant: str, position: int) -> None:
        self.tenant = tenant
        self.position = position
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._ended = False

    def offer(self, event: Event) -> None:
        """Hand an event over, or end the stream if it is too far behind."""
        if event.tenant not in (self.tenant, EVERYONE) or self._ended:
            return
        if self._queue.qsize() >= BEHIND:
            self.end()
        else:
            self._queue.put_nowait(event)

    def end(self) -> None:
        """No more events."""
        self._ended = True
        self._queue.put_nowait(None)

    async def next(self) -> Event | None:
        """The next event, waiting for it; None at the end."""
        return await self._queue.get()


class Feed:
    """The poller and its streams."""

    def __init__(self, engine: AsyncEngine, log: Log) -> None:
        self._engine = engine
        self._log = log
        self._streams: set[Stream] = set()
        self._position: int | None = None
        self._started = asyncio.Event()
        self._ended = asyncio.Event()
        self.running = False

    async def run(self) -> None:
        """Poll until cancelled; waits out a database that is gone. One of the program's background tasks."""
        down, self.running = False, True
        try:
            while True:
                try:
                    await self._poll()
                except Transient as error:
                    if not down:
                        self._log.warning("events cannot be read", error=error.message)
                    down = True
                else:
                    down = False
                await asyncio.sleep(POLL_S)
        finally:
            self.running = False

    def close(self) -> None:
        """End all streams, and every later one at once."""
        self._ended.set()
        self._started.set()
        for stream in self._streams:
            stream.end()

    async def ends_within(self, seconds: float) -> bool:
        """Whether the server stops in this time, after as long: for streams that have a rhythm of their own."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    @contextmanager
    def _joined(self, tenant: str) -> Iterator[Stream]:
        stream = Stream(tenant, self._position or 0)
        self._streams.add(stream)
        if self._ended.is_set():
            stream.end()
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    async def follow(self, tenant: str, last: int | None) -> AsyncGenerator[Event | int]:
        """Events of `tenant` behind id `last` (from now on where None), forever.

        Yields first, as a number, the id it starts from: another one than `last` when that is none of this database.
        """
        await self._started.wait()
        with self._joined(tenant) as stream:
            start = stream.position
            sent = await self._checked(last, start)
            yield sent
            while sent < start:
                async with read(self._engine) as connection:
                    before = await events.after_in(connection, tenant, sent, limit=BATCH)
                for event in before:
                    if event.id <= start:
                        yield event
                        sent = event.id
                if len(before) < BATCH:
                    break
            while (live := await stream.next()) is not None:
                if live.id > sent:
                    yield live

    async def _checked(self, last: int | None, start: int) -> int:
        if last is None or last <= start:
            return start if last is None else last
        # Another process's poller may be ahead of ours; only an id the table never had is from another database.
        async with read(self._engine) as connection:
            return last if last <= await events.newest_id(connection) else start

    async def _poll(self) -> None:
        async with read(self._engine) as connection:
            if self._position is None:
                self._position = await events.newest_id(connection)
                self._started.set()
            found = await events.after(connection, self._position, limit=BATCH)
        for event in found:
            self._position = event.id
            for stream in tuple(self._streams):
                stream.offer(event)
