"""Fetching manifests and chunks over HTTP: only what is missing, each verified before it is kept.

Invariants:

* nothing is read past what the signed generation and the manifest allow: at most one byte more, and that is `Corrupt`;
* a chunk counts once it is verified and durable in the store, so an interrupted fetch goes on where it stopped;
* a server that trickles or stalls is given up on: a chunk has a total time that follows from its size;
* a chunk whose transfer breaks goes on from the byte it broke at, as long as every attempt brings something; where the parts
  do not make up the chunk, since the server changed in between, it is fetched whole once;
* the bearer token goes to the configured address only: redirects are not followed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import aiohttp

from shared.bundle import manifest as manifests
from shared.bundle.manifest import Chunk
from shared.bundle.store import ChunkStore
from shared.io.clock import Clock
from shared.protocol.errors import Corrupt, Refusal, Refused, Transient, Unavailable
from shared.protocol.topics import Path as Paths
from shared.protocol.window import opens_in

PARALLEL = 4
PIECE = 64 * 1024
CONNECT_S = 10.0
SILENCE_S = 30.0
"""Longest wait for the next bytes."""
RESUMES = 8
"""How often a chunk goes on after its transfer broke, before that is said."""
SLOWEST = 2048.0
"""Bytes per second below which a chunk is given up on."""

Progress = Callable[[int, int], None]


class Tokens(Protocol):
    """Where bearer tokens come from."""

    async def token(self) -> str:
        """One that should be good."""
        ...

    def forget(self, token: str) -> None:
        """It was refused: do not give it out again."""
        ...


class Fetcher:
    """Asks one device API."""

    def __init__(
        self, http: aiohttp.ClientSession, *, api_url: str, tokens: Tokens, clock: Clock, parallel: int = PARALLEL
    ) -> None:
        self._http = http
        self._url = api_url.rstrip("/")
        self._tokens = tokens
        self._clock = clock
        self._parallel = parallel

    async def manifest(self, digest: str) -> bytes:
        """The manifest's bytes, verified against `digest`.

        Raises:
            Refused: the cloud does not have it or does not give it to this device.
            Corrupt: the bytes are not those.
            Transient: not now.

        """
        pieces: list[bytes] = []

        async def keep(piece: bytes) -> None:
            pieces.append(piece)

        limit = manifests.MAX_BYTES
        await self._get(Paths.MANIFEST.format(digest=digest), keep, limit=limit, within=_patience(limit))
        data = b"".join(pieces)
        if manifests.digest_of(data) != digest:
            raise Corrupt(f"manifest {digest}: {len(data)} B that hash to {manifests.digest_of(data)}")
        return data

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
        pace = _Pace(bytes_per_s, self._clock)
        waiting = list(reversed(chunks))

        async def fetch_on() -> None:
            nonlocal done
            while waiting:
                chunk = waiting.pop()
                try:
                    if not await asyncio.to_thread(store.has, chunk.digest):
                        self._check_open(window)
                        await self._chunk(chunk, store, pace)
                except (Refused, Corrupt, Transient) as error:
                    # Nothing more is begun; what the other lanes have half of is not thrown away.
                    failed.append(error)
                    waiting.clear()
                    return
                done += chunk.size
                if progress is not None:
                    progress(done, total)

        try:
            async with asyncio.TaskGroup() as group:
                for lane in range(min(self._parallel, len(chunks))):
                    group.create_task(fetch_on(), name=f"fetch-{lane}")
        except BaseExceptionGroup as errors:
            # A bug in one lane ends the others.
            raise errors.exceptions[0] from None
        if failed:
            raise failed[0]

    def _check_open(self, window: str | None) -> None:
        wait = 0.0 if window is None else opens_in(window, self._clock.wall())
        if wait > 0:
            detail = f"chunks are fetched in {window} UTC only, which begins in {wait / 3600:.1f} h"
            raise Transient(detail, why=Unavailable.UNREACHABLE, retry_after=wait)

    async def _chunk(self, chunk: Chunk, store: ChunkStore, pace: "_Pace") -> None:
        if not await self._attempt(chunk, store, pace, resumes=RESUMES):
            # The parts came from different bytes, or one of them was wrong: once more, in one piece.
            await self._attempt(chunk, store, pace, resumes=0)

    async def _attempt(self, chunk: Chunk, store: ChunkStore, pace: "_Pace", *, resumes: int) -> bool:
        """Fetch a chunk and keep it; False where it came in parts that do not make it up."""
        deadline = self._clock.monotonic() + _patience(chunk.size) + self._parallel * pace.seconds(chunk.size)
        parts = 0
        with store.writing(chunk.digest, size=chunk.size) as writer:

            async def keep(piece: bytes) -> None:
                await pace.take(len(piece))
                await asyncio.to_thread(writer.write, piece)

            while True:
                before = writer.written
                within = max(0.001, deadline - self._clock.monotonic())
                path = Paths.CHUNK.format(digest=chunk.digest)
                try:
                    await self._get(path, keep, limit=chunk.size, within=within, begin=before)
                    break
                except Transient:
                    parts += 1
                    gained = writer.written > before
                    if parts > resumes or not gained or self._clock.monotonic() >= deadline:
                        raise
            try:
                await asyncio.to_thread(writer.commit)
            except Corrupt:
                if parts == 0:
                    raise
                return False
        return True

    async def _get(
        self, path: str, keep: Callable[[bytes], Awaitable[None]], *, limit: int, within: float, begin: int = 0
    ) -> None:
        """Hand what `path` answers to `keep`, from byte `begin` on."""
        url = self._url + path
        token = await self._tokens.token()
        timeout = aiohttp.ClientTimeout(total=within, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        if begin:
            headers["Range"] = f"bytes={begin}-"
        try:
            async with self._http.get(
                url, headers=headers, timeout=timeout, allow_redirects=False, auto_decompress=False
            ) as answer:
                received = self._begins(answer, url, token, begin)
                async for piece in answer.content.iter_chunked(PIECE):
                    known = max(0, begin - received)
                    received += len(piece)
                    if received > limit:
                        raise Corrupt(f"{url} sends more than its {limit} B", code="too-long")
                    if known < len(piece):
                        await keep(piece[known:])
        except (aiohttp.ClientError, TimeoutError, ConnectionError, ValueError) as error:
            raise Transient(f"{url}: {error or type(error).__name__}", why=Unavailable.UNREACHABLE) from error

    def _begins(self, answer: aiohttp.ClientResponse, url: str, token: str, begin: int) -> int:
        """At which byte the answer begins; a server that knows no ranges, or has other bytes by now, begins anew."""
        if answer.status == 200:
            return 0
        if answer.status == 206 and begin and answer.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
            return begin
        raise self._refusal(answer, url, token)

    def _refusal(self, answer: aiohttp.ClientResponse, url: str, token: str) -> Refused | Transient:
        status = answer.status
        if status == 401:
            # An expired token, or a control plane with new keys: the next attempt brings another.
            self._tokens.forget(token)
        # A redirect is what captive portals send: it passes.
        if status in (401, 408, 425, 429) or status >= 500 or 300 <= status < 400:
            return Transient(f"{url} answered {status}", why=Unavailable.UNREACHABLE, retry_after=_retry_after(answer))
        kind = {403: Refusal.FORBIDDEN, 404: Refusal.NOT_FOUND}.get(status, Refusal.UNSUPPORTED)
        return Refused(f"{url} answered {status}", kind=kind)


class _Pace:
    """A shared bound on bytes per second: each taker waits for its turn."""

    def __init__(self, rate: int | None, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._next = clock.monotonic()

    def seconds(self, size: int) -> float:
        return 0.0 if self._rate is None else size / max(1, self._rate)

    async def take(self, size: int) -> None:
        if self._rate is not None:
            now = self._clock.monotonic()
            self._next = max(self._next, now) + self.seconds(size)
            await asyncio.sleep(self._next - now)


def _patience(size: int) -> float:
    return SILENCE_S + size / SLOWEST


def _retry_after(answer: aiohttp.ClientResponse) -> float | None:
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None
