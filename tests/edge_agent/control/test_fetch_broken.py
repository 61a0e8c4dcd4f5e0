"""Transfers that break, stall, trickle or change under way: what came is kept, and what cannot be had is given up on."""

import asyncio

import pytest

from edge_agent.control import fetch as module
from edge_agent.control import fetch_http
from shared.bundle.partial import FOLDER
from shared.bundle.store import ChunkStore
from shared.protocol.errors import Corrupt, Refused, Transient
from tests.edge_agent.control.test_fetch import CHUNKS, PIECES, left, with_api


async def half_fetched(store, chunks, size):
    """Wait until `size` bytes of each of `chunks` are on disk."""
    files = [store.root / FOLDER / chunk.digest for chunk in chunks]
    async with asyncio.timeout(20):
        while not all(file.exists() and file.stat().st_size >= size for file in files):
            await asyncio.sleep(0)


@pytest.mark.parametrize(("ranges", "breaks"), [(True, 5), (False, 1)], ids=["with ranges", "without"])
def test_a_broken_transfer_goes_on_where_it_broke(tmp_path, ranges, breaks):
    async def work(api, fetcher, tokens):
        api.ranges, api.misdeed, api.misdeeds = ranges, "cut", breaks
        await fetcher.chunks(CHUNKS[:1], ChunkStore(tmp_path))
        assert api.sent == len(PIECES[0]) * (1 if ranges else 1.5)
        assert len(api.asked) == breaks + 1

    with_api(work, parallel=1)


def test_a_transfer_that_always_breaks_is_given_up_on(tmp_path):
    store = ChunkStore(tmp_path)

    async def work(api, fetcher, tokens):
        api.misdeed, api.misdeeds = "cut", 10**6
        with pytest.raises(Transient):
            await fetcher.chunks(CHUNKS[:1], store)
        assert len(api.asked) <= module.RESUMES + 1
        assert left(store) == [CHUNKS[0].digest]

    with_api(work, parallel=1)


def test_what_the_other_lanes_have_half_of_is_not_thrown_away(tmp_path):
    store = ChunkStore(tmp_path)

    async def work(api, fetcher, tokens):
        api.gate.clear()
        missing, *others = CHUNKS[:4]
        del api.bytes[missing.digest]
        task = asyncio.create_task(fetcher.chunks(CHUNKS, store))
        async with asyncio.timeout(10):
            while api.together < 4:
                await asyncio.sleep(0)
        api.gate.set()
        with pytest.raises(Refused):
            await task
        assert store.held() >= {chunk.digest for chunk in others}
        assert len(api.asked) < len(CHUNKS)

    with_api(work)


@pytest.mark.parametrize("mended", [True, False])
def test_parts_of_different_bytes_are_fetched_anew_in_one_piece(tmp_path, mended):
    store = ChunkStore(tmp_path)
    chunk, piece = CHUNKS[0], PIECES[0]

    async def work(api, fetcher, tokens):
        api.misdeed, api.misdeeds = "other half", 1
        if mended:
            whole = api._whole

            def mend(data, begin):
                api.bytes[chunk.digest] = piece
                return whole(data, begin)

            api._whole = mend
            await fetcher.chunks([chunk], store)
            assert store.get(chunk.digest) == piece
        else:
            with pytest.raises(Corrupt):
                await fetcher.chunks([chunk], store)
            assert store.held() == frozenset()
        assert len(api.asked) == 3
        assert left(store) == []

    with_api(work, parallel=1)


def test_a_server_that_stalls_in_the_middle_is_given_up_on_and_what_came_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_http, "SILENCE_S", 0.2)

    async def work(api, fetcher, tokens):
        api.misdeed, api.misdeeds = "stall", 1
        await fetcher.chunks(CHUNKS[:1], ChunkStore(tmp_path))
        assert api.sent == len(PIECES[0])
        assert len(api.asked) == 2

    with_api(work, parallel=1)


def test_a_server_slower_than_the_slowest_is_cut_off_and_what_came_is_kept(tmp_path):
    store = ChunkStore(tmp_path)

    async def work(api, fetcher, tokens):
        api.misdeed, api.misdeeds = "trickle", 10**6
        with pytest.raises(Transient, match="less than 100 B came"):
            await fetcher.chunks(CHUNKS[:1], store)
        api.tick.set()
        assert len((store.root / "partial" / CHUNKS[0].digest).read_bytes()) == 1

    with_api(work, parallel=1, slowest=1000, window=0.1)


def test_a_stall_shorter_than_the_window_is_nothing(tmp_path):
    store = ChunkStore(tmp_path)

    async def work(api, fetcher, tokens):
        api.misdeed, api.misdeeds = "trickle", 1
        task = asyncio.create_task(fetcher.chunks(CHUNKS[:1], store))
        await half_fetched(store, CHUNKS[:1], 1)
        api.tick.set()
        await task
        assert store.get(CHUNKS[0].digest) == PIECES[0]

    with_api(work, parallel=1, slowest=10, window=10)


def test_our_own_bound_is_no_slow_server(tmp_path):
    store = ChunkStore(tmp_path)

    async def work(api, fetcher, tokens):
        # Each chunk may be kept only seconds after it came: far longer than the window.
        await fetcher.chunks(CHUNKS[:2], store, bytes_per_s=4000)
        assert len(store.held()) == 2

    with_api(work, parallel=1, slowest=10**6, window=0.1)
