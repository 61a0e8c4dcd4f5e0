"""Fetching manifests, chunks and metadata: only what is missing, each verified before it is kept, over whatever there is.

Invariants:

* nothing is read past what the signed generation and the manifest allow: at most a piece more, and that is `Corrupt`;
* a chunk counts once it is verified and durable in the store, so an interrupted fetch goes on where it stopped; what came of the
  chunks in flight stays on disk too, so that even a killed process fetches no chunk of them anew;
* what comes slower than the floor, over all transfers together, is given up on for now: a shorter stall is nothing;
* a chunk whose transfer breaks goes on from the byte it broke at, as long as every attempt brings something; where the parts
  do not make up the chunk, since the server changed in between or the power went, it is fetched whole once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from edge_agent.control.pace import SLOWEST, WINDOW_S, Floor, Pace
from shared.bundle import manifest as manifests
from shared.bundle.manifest import Chunk
from shared.bundle.partial import PartialChunk, discard_partial, most
from shared.bundle.store import ChunkStore
from shared.io.clock import Clock
from shared.protocol.errors import Corrupt, Refused, Transient, Unavailable
from shared.protocol.topics import Path as Paths
from shared.protocol.window import opens_in

PARALLEL = 4
SPARE = 16
"""Partial chunks that stay although they are not being fetched."""
RESUMES = 8
"""How often a chunk goes on after its transfer broke, before that is said."""

Progress = Callable[[int, int], None]
Keep = Callable[[bytes], Awaitable[None]]


class Source(Protocol):
    """Where bytes come from: one way to the cloud."""

    @property
    def grain(self) -> int:
        """Bytes that come at once or not at all; 0 where they trickle."""
        ...

    async def get(self, path: str, keep: Keep, *, limit: int, begin: int = 0) -> None:
        """Hand what `path` (of the device API) holds to `keep`, in order, from byte `begin` on, until its end.

        Raises:
            Refused: the cloud does not have it or does not give it to this device.
            Corrupt: it is longer than `limit`.
            Transient: not now.

        """
        ...


class Fetcher:
    """Fetches from one source."""

    def __init__(
        self,
        source: Source,
        *,
        clock: Clock,
        parallel: int = PARALLEL,
        slowest: int = SLOWEST,
        window: float = WINDOW_S,
    ) -> None:
        """`slowest`: bytes per second, on the average of `window` seconds, below which nobody waits any longer."""
        self._source = source
        self._clock = clock
        self._parallel = parallel
        self._slowest = slowest
        self._window = window

    async def manifest(self, digest: str) -> bytes:
        """The manifest's bytes, verified against `digest`; raises as `small`, and `Corrupt` where the bytes are not those."""
        data = await self.small(Paths.MANIFEST.format(digest=digest), manifests.MAX_BYTES)
        if manifests.digest_of(data) != digest:
            raise Corrupt(f"manifest {digest}: {len(data)} B that hash to {manifests.digest_of(data)}")
        return data

    async def small(self, path: str, max_bytes: int) -> bytes:
        """What `path` of the device API holds, unverified; TUF metadata, say.

        Raises:
            Refused: the cloud does not have it or does not give it to this device.
            Corrupt: it is longer than `max_bytes`.
            Transient: not now.

        """
        pieces: list[bytes] = []
        floor = self._floor()

        async def keep(piece: bytes) -> None:
            floor.took(len(piece))
            pieces.append(piece)

        async with floor.held():
            await self._source.get(path, keep, limit=max_bytes)
        return b"".join(pieces)

    async def chunks(
        self,
        chunks: Sequence[Chunk],
        store: ChunkStore,
        *,
        progress: Progress | None = None,
        bytes_per_s: int | None = None,
        window: str | None = None,
    ) -> None:
        """Every chunk of `chunks` that `store` lacks, a few at a time; those that arrived stay whatever else fails.

        Args:
            chunks: what is wanted, in the order to fetch.
            store: where they go.
            progress: called with bytes kept so far, of all.
            bytes_per_s: bound over all transfers together; None for none.
            window: when chunks may be begun (`shared.protocol.window`); None for always.

        Raises:
            Refused, Corrupt, Transient: as `manifest`, for the first chunk that fails, once those under way have ended; `Transient`
                too for a full disk.

        """
        total, done = sum(chunk.size for chunk in chunks), 0
        failed: list[Refused | Corrupt | Transient] = []
        pace, floor = Pace(bytes_per_s, self._clock), self._floor()
        waiting = list(reversed(chunks))

        async def fetch_on() -> None:
            nonlocal done
            while waiting:
                chunk = waiting.pop()
                try:
                    if not await asyncio.to_thread(store.has, chunk.digest):
                        self._check_open(window)
                        await self._chunk(chunk, store, pace, floor)
                except (Refused, Corrupt, Transient) as error:
                    # Nothing more is begun; what the other lanes have half of is not thrown away.
                    failed.append(error)
                    waiting.clear()
                    return
                done += chunk.size
                if progress is not None:
                    progress(done, total)

        # A generation that came in between may be followed by the one before, whose chunks are half here.
        await asyncio.to_thread(discard_partial, store, {chunk.digest for chunk in chunks}, spare=SPARE)
        try:
            async with floor.held(), asyncio.TaskGroup() as group:
                for lane in range(min(self._parallel, len(chunks))):
                    group.create_task(fetch_on(), name=f"fetch-{lane}")
        except BaseExceptionGroup as errors:
            # A bug in one lane ends the others.
            raise errors.exceptions[0] from None
        if failed:
            raise failed[0]

    def _floor(self) -> Floor:
        return Floor(self._slowest, window=self._window, grain=self._source.grain)

    def _check_open(self, window: str | None) -> None:
        wait = 0.0 if window is None else opens_in(window, self._clock.wall())
        if wait > 0:
            detail = f"chunks are fetched in {window} UTC only, which begins in {wait / 3600:.1f} h"
            raise Transient(detail, why=Unavailable.UNREACHABLE, retry_after=wait)

    async def _chunk(self, chunk: Chunk, store: ChunkStore, pace: Pace, floor: Floor) -> None:
        with PartialChunk(store, chunk) as writer:

            async def keep(piece: bytes) -> None:
                wait = pace.turn(len(piece))
                floor.took(len(piece), wait=wait)
                if wait > 0:
                    await asyncio.sleep(wait)
                await _to_its_end(writer.write, piece)

            in_parts = writer.written > 0
            try:
                in_parts = await self._receive(chunk, writer, keep, resumes=RESUMES) or in_parts
                await _to_its_end(writer.commit)
            except Corrupt:
                if not in_parts:
                    raise
                # The parts came from different bytes, or one of them was wrong: once more, in one piece.
                await _to_its_end(writer.restart)
                await self._receive(chunk, writer, keep, resumes=0)
                await _to_its_end(writer.commit)

    async def _receive(self, chunk: Chunk, writer: PartialChunk, keep: Keep, *, resumes: int) -> bool:
        """What `writer` lacks of a chunk; whether its transfer broke on the way."""
        broken = 0
        while True:
            before = writer.written
            try:
                path = Paths.CHUNK.format(digest=chunk.digest)
                await self._source.get(path, keep, limit=most(chunk.size), begin=before)
            except Transient as error:
                broken += 1
                if broken > resumes or writer.written == before or error.why is Unavailable.STORAGE:
                    raise
            else:
                return broken > 0


async def _to_its_end(write: Callable[..., None], *arguments: object) -> None:
    """Run `write` in a thread and, cancelled or not, wait until it has ended: nobody closes its file meanwhile."""
    writing = asyncio.ensure_future(asyncio.to_thread(write, *arguments))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait({writing})
        raise
