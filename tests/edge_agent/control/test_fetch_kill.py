"""A process that dies while it fetches: what it had of the chunks in flight is not fetched again."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from shared.bundle.manifest import Chunk
from shared.bundle.partial import FOLDER, discard_partial
from shared.bundle.store import ChunkStore
from shared.protocol.errors import Corrupt
from tests.edge_agent.control.test_fetch import CHUNKS, PIECES, left, with_api
from tests.edge_agent.control.test_fetch_broken import half_fetched

CHILD = """
import asyncio, sys
from pathlib import Path
from aiohttp import ClientSession
from edge_agent.control.fetch import Fetcher
from edge_agent.control.fetch_http import HttpSource
from shared.bundle.store import ChunkStore
from shared.io.clock import SystemClock
from tests.edge_agent.control.device_api import Tokens
from tests.edge_agent.control.test_fetch_kill import wanted

async def main():
    async with ClientSession() as http:
        source = HttpSource(http, api_url=sys.argv[2], tokens=Tokens())
        await Fetcher(source, clock=SystemClock()).chunks(wanted(), ChunkStore(Path(sys.argv[1])))

asyncio.run(main())
"""


def pieces():
    return [hashlib.shake_256(bytes([i])).digest(200_000 + i) for i in range(6)]


def wanted():
    return [Chunk(hashlib.sha256(piece).hexdigest(), len(piece)) for piece in pieces()]


def test_kill_9_in_the_middle_of_four_chunks_loses_none_of_them(tmp_path):
    store, chunks = ChunkStore(tmp_path), wanted()

    async def work(api, fetcher, tokens):
        api.bytes = {chunk.digest: piece for chunk, piece in zip(chunks, pieces(), strict=True)}
        api.misdeed, api.misdeeds = "stall", 4
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), api.url], cwd=Path.cwd())
        try:
            await half_fetched(store, chunks[:4], 100_000)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        assert store.held() == frozenset()
        await fetcher.chunks(chunks, store)
        assert store.held() == {chunk.digest for chunk in chunks}
        # Not a byte came twice: the halves were there, and the other halves were asked for.
        assert api.sent == sum(chunk.size for chunk in chunks)
        assert left(store) == []

    with_api(work)


@pytest.mark.parametrize("rest", [1, 0], ids=["part of it", "all of it"])
def test_what_a_power_cut_left_wrong_is_fetched_whole(tmp_path, rest):
    store, chunk = ChunkStore(tmp_path), CHUNKS[0]

    async def work(api, fetcher, tokens):
        (tmp_path / FOLDER).mkdir()
        (tmp_path / FOLDER / chunk.digest).write_bytes(bytes(chunk.size - rest))
        await fetcher.chunks([chunk], store)
        assert store.get(chunk.digest) == PIECES[0]
        assert left(store) == []

    with_api(work)


def test_what_was_whole_but_not_kept_yet_is_not_fetched_again(tmp_path):
    store, chunk = ChunkStore(tmp_path), CHUNKS[0]

    async def work(api, fetcher, tokens):
        (tmp_path / FOLDER).mkdir()
        (tmp_path / FOLDER / chunk.digest).write_bytes(PIECES[0])
        await fetcher.chunks([chunk], store)
        assert store.get(chunk.digest) == PIECES[0]
        assert api.sent == 0

    with_api(work)


def test_of_what_is_not_fetched_now_only_the_newest_stays(tmp_path):
    store = ChunkStore(tmp_path)

    async def work(api, fetcher, tokens):
        (tmp_path / FOLDER).mkdir()
        for i in range(20):
            (tmp_path / FOLDER / f"{i:064}").write_bytes(b"half")
            os.utime(tmp_path / FOLDER / f"{i:064}", (i, i))
        await fetcher.chunks(CHUNKS[:1], store)
        assert left(store) == [f"{i:064}" for i in range(4, 20)]
        discard_partial(store)
        assert left(store) == []

    with_api(work)


def test_a_packed_chunk_is_taken_up_and_unpacked(tmp_path):
    store, content = ChunkStore(tmp_path), b"tide" * 50_000
    chunk, packed = Chunk(hashlib.sha256(content).hexdigest(), len(content)), zstandard.compress(content)

    async def work(api, fetcher, tokens):
        api.bytes[chunk.digest] = packed
        api.misdeed, api.misdeeds = "cut", 2
        await fetcher.chunks([chunk], store)
        assert store.get(chunk.digest) == content
        assert api.sent == len(packed)

    with_api(work)


def test_a_packed_chunk_that_holds_something_else_is_corrupt(tmp_path):
    store, content = ChunkStore(tmp_path), b"tide" * 50_000
    chunk = Chunk(hashlib.sha256(content).hexdigest(), len(content))

    async def work(api, fetcher, tokens):
        for other in (b"ebb!" * 50_000, b"tide" * 5_000_000):
            api.bytes[chunk.digest] = zstandard.compress(other)
            with pytest.raises(Corrupt):
                await fetcher.chunks([chunk], store)
            assert left(store) == []

    with_api(work)


def test_a_cancelled_fetch_goes_on_where_it_was(tmp_path):
    store, chunks = ChunkStore(tmp_path), wanted()

    async def work(api, fetcher, tokens):
        api.bytes = {chunk.digest: piece for chunk, piece in zip(chunks, pieces(), strict=True)}
        api.misdeed, api.misdeeds = "stall", 4
        task = asyncio.create_task(fetcher.chunks(chunks, store))
        await half_fetched(store, chunks[:4], 100_000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await fetcher.chunks(chunks, store)
        assert api.sent == sum(chunk.size for chunk in chunks)

    with_api(work)
