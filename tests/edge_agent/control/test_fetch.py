import asyncio
import hashlib
import os

import pytest

from edge_agent.control import fetch as module
from edge_agent.control import fetch_http
from edge_agent.control.fetch import Fetcher
from edge_agent.control.fetch_http import HttpSource
from shared.bundle.manifest import Chunk
from shared.bundle.partial import FOLDER
from shared.bundle.store import ChunkStore
from shared.io.clock import SystemClock
from shared.protocol.errors import Corrupt, Refusal, Refused, Transient, Unavailable
from tests.edge_agent.control.device_api import Tokens, device_api
from tests.shared.bundle.bundles import bundle

PIECES = [os.urandom(1000 + i) for i in range(12)]
CHUNKS = [Chunk(hashlib.sha256(piece).hexdigest(), len(piece)) for piece in PIECES]
BYTES = {chunk.digest: piece for chunk, piece in zip(CHUNKS, PIECES, strict=True)}


def left(store):
    """Digests of what is half fetched."""
    return sorted(path.name for path in (store.root / FOLDER).iterdir())


def with_api(work, *words, **options):
    async def run():
        async with device_api() as (api, http):
            api.bytes = dict(BYTES)
            tokens = Tokens(*words)
            source = HttpSource(http, api_url=api.url + "/", tokens=tokens)
            fetcher = Fetcher(source, clock=SystemClock(), **options)
            await asyncio.wait_for(work(api, fetcher, tokens), 30)

    asyncio.run(run())


def test_what_is_missing_is_fetched_a_few_at_a_time(tmp_path):
    store = ChunkStore(tmp_path)
    store.put(CHUNKS[3].digest, PIECES[3])
    seen = []

    async def work(api, fetcher, tokens):
        await fetcher.chunks(CHUNKS, store, progress=lambda done, total: seen.append((done, total)))
        assert store.held() == set(BYTES)
        assert sorted(api.asked) == sorted(set(BYTES) - {CHUNKS[3].digest})
        assert 1 < api.most_together <= 4
        total = sum(map(len, PIECES))
        assert seen[-1] == (total, total)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        await fetcher.chunks(CHUNKS, store)
        assert len(api.asked) == len(CHUNKS) - 1

    with_api(work)


def test_a_manifest_is_verified(tmp_path):
    _, data, digest, _ = bundle()

    async def work(api, fetcher, tokens):
        api.bytes[digest] = data
        assert await fetcher.manifest(digest) == data
        api.bytes[digest] = data + b" "
        with pytest.raises(Corrupt):
            await fetcher.manifest(digest)

    with_api(work)


@pytest.mark.parametrize(
    ("misdeed", "error"),
    [
        ("corrupt", Corrupt),
        ("short", Corrupt),
        ("gzip", None),
        ("cut", None),
        ("endless", Corrupt),
        ("redirect", Transient),
        (403, Refused),
        (404, Refused),
        (500, Transient),
        (503, Transient),
        (429, Transient),
    ],
)
def test_a_misbehaving_server_costs_one_chunk_and_what_came_stays(tmp_path, misdeed, error):
    store = ChunkStore(tmp_path)

    async def work(api, fetcher, tokens):
        api.misdeed, api.misdeeds, api.retry_after = misdeed, 1, 7
        if error is None:
            await fetcher.chunks(CHUNKS, store)
        else:
            with pytest.raises(error) as caught:
                await fetcher.chunks(CHUNKS, store)
            if misdeed in (429, 500, 503):
                assert caught.value.retry_after == 7
            if misdeed == 404:
                assert caught.value.kind is Refusal.NOT_FOUND
        held = store.held()
        assert held < set(BYTES) or error is None
        assert set(left(store)) <= set(BYTES) - held
        await fetcher.chunks(CHUNKS, store)
        assert left(store) == []
        assert store.held() == set(BYTES)

    with_api(work)


def test_an_endless_manifest_is_cut_off(tmp_path, monkeypatch):
    _, data, digest, _ = bundle()
    monkeypatch.setattr(module.manifests, "MAX_BYTES", 100_000)

    async def work(api, fetcher, tokens):
        api.bytes[digest] = data
        api.misdeed, api.misdeeds = "endless", 1
        with pytest.raises(Corrupt):
            await fetcher.manifest(digest)

    with_api(work)


def test_a_silent_server_is_given_up_on(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_http, "SILENCE_S", 0.05)

    async def work(api, fetcher, tokens):
        api.misdeed, api.misdeeds = "silent", 1
        with pytest.raises(Transient) as caught:
            await fetcher.chunks(CHUNKS[:1], ChunkStore(tmp_path))
        assert caught.value.why is Unavailable.UNREACHABLE

    with_api(work)


def test_nobody_there_is_transient(tmp_path):
    async def work(api, fetcher, tokens):
        fetcher._source._url = "http://127.0.0.1:1"
        with pytest.raises(Transient):
            await fetcher.manifest(CHUNKS[0].digest)

    with_api(work)


def test_a_refused_token_is_forgotten_and_the_next_attempt_brings_another(tmp_path):
    store = ChunkStore(tmp_path)

    async def work(api, fetcher, tokens):
        with pytest.raises(Transient):
            await fetcher.chunks(CHUNKS[:1], store)
        assert tokens.forgotten == ["stale"]
        await fetcher.chunks(CHUNKS[:1], store)
        assert store.has(CHUNKS[0].digest)

    with_api(work, "stale", "good")


def test_a_cancelled_fetch_leaves_only_whole_chunks(tmp_path):
    store = ChunkStore(tmp_path)

    async def work(api, fetcher, tokens):
        api.gate.clear()
        task = asyncio.create_task(fetcher.chunks(CHUNKS, store))
        async with asyncio.timeout(10):
            while api.together < 4:
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert store.held() == frozenset()
        assert left(store) == []
        api.gate.set()
        await fetcher.chunks(CHUNKS, store)
        assert store.held() == set(BYTES)

    with_api(work)


def test_outside_its_window_no_chunk_is_begun(tmp_path):
    store, clock = ChunkStore(tmp_path), Waits()

    async def work(api, fetcher, tokens):
        fetcher._clock = clock
        clock.now = 12 * 3600.0
        with pytest.raises(Transient, match=r"begins in 10\.0 h") as caught:
            await fetcher.chunks(CHUNKS, store, window="22:00-05:30")
        assert caught.value.retry_after == 10 * 3600
        assert api.asked == []
        clock.now += 10 * 3600

        def closes(done, total):
            clock.now = 12 * 3600.0

        with pytest.raises(Transient):
            await fetcher.chunks(CHUNKS, store, window="22:00-05:30", progress=closes)
        assert len(store.held()) == 1
        clock.now = 0.0
        await fetcher.chunks(CHUNKS, store, window="22:00-05:30")
        assert store.held() == set(BYTES)

    with_api(work, parallel=1)


class Waits:
    """A clock that moves as far as somebody waits."""

    def __init__(self):
        self.now = 0.0

    def wall(self):
        return self.now

    def monotonic(self):
        return self.now


def test_a_bound_on_bytes_per_second_is_kept(tmp_path, monkeypatch):
    clock, real = Waits(), asyncio.sleep

    async def sleep(seconds):
        clock.now += max(0.0, seconds)
        await real(0)

    async def work(api, fetcher, tokens):
        fetcher._clock = clock
        with monkeypatch.context() as patched:
            patched.setattr(module.asyncio, "sleep", sleep)
            await fetcher.chunks(CHUNKS, ChunkStore(tmp_path), bytes_per_s=1000)
        assert clock.now >= sum(map(len, PIECES)) / 1000

    with_api(work, parallel=1)
