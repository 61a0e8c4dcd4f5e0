import asyncio
import contextlib

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.slow_link import HOST, SlowLink

ROUND_TRIP_S = 0.02


@contextlib.asynccontextmanager
async def echo():
    """A server that gives back what it gets, and says how many connections it had."""
    writers = []

    async def serve(reader, writer):
        writers.append(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1], writers
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def connected(link):
    reader, writer = await asyncio.open_connection(HOST, link.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


def on(factory, story):
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(story(), 30))


loops = pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])


@loops
@settings(max_examples=5, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=5000), min_size=1, max_size=20))
def test_what_is_sent_comes_whole_and_in_order(factory, pieces):
    async def story():
        async with (
            echo() as (port, _),
            SlowLink(round_trip=ROUND_TRIP_S, upstream=port) as link,
            connected(link) as (r, w),
        ):
            for piece in pieces:
                w.write(piece)
                await asyncio.sleep(0)
            whole = b"".join(pieces)
            assert await r.readexactly(len(whole)) == whole

    on(factory, story)


@loops
def test_nothing_is_there_before_a_handshake_and_a_round_trip(factory):
    async def story():
        clock = asyncio.get_running_loop().time
        async with echo() as (port, _), SlowLink(round_trip=ROUND_TRIP_S, upstream=port) as link:
            began = clock()
            async with connected(link) as (r, w):
                for least in (2 * ROUND_TRIP_S, ROUND_TRIP_S):
                    w.write(b"x")
                    await r.readexactly(1)
                    # Timers of the loops have steps of a millisecond.
                    assert clock() - began >= least - 0.005
                    began = clock()

    on(factory, story)


@loops
def test_a_black_hole_accepts_and_says_nothing_and_ends_what_it_made_holes_in(factory):
    async def story():
        async with (
            echo() as (port, _),
            SlowLink(round_trip=ROUND_TRIP_S, upstream=port) as link,
            connected(link) as (r, w),
        ):
            w.write(b"a")
            assert await r.readexactly(1) == b"a"
            link.swallows = True
            w.write(b"b")
            async with connected(link) as (other, theirs):
                theirs.write(b"c")
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(r.read(1), 5 * ROUND_TRIP_S)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(other.read(1), ROUND_TRIP_S)
                link.swallows = False
                for each in (r, other):
                    with contextlib.suppress(ConnectionError):
                        assert await each.read() == b""
            assert link.accepted == 2
            async with connected(link) as (again, mine):
                mine.write(b"d")
                assert await again.readexactly(1) == b"d"

    on(factory, story)


@loops
@pytest.mark.parametrize("dies", ["client", "server"])
def test_the_end_of_one_side_is_the_end_of_the_other(factory, dies):
    async def story():
        async with (
            echo() as (port, writers),
            SlowLink(round_trip=ROUND_TRIP_S, upstream=port) as link,
            connected(link) as (r, w),
        ):
            w.write(b"a")
            await r.readexactly(1)
            if dies == "client":
                w.transport.abort()
                while not writers[0].transport.is_closing():
                    await asyncio.sleep(0.001)
            else:
                writers[0].transport.abort()
                with contextlib.suppress(ConnectionError):
                    assert await r.read() == b""

    on(factory, story)


@loops
def test_nobody_upstream_is_a_broken_connection(factory):
    async def story():
        async with echo() as (port, _):
            pass
        async with SlowLink(round_trip=ROUND_TRIP_S, upstream=port) as link, connected(link) as (r, w):
            w.write(b"a")
            with contextlib.suppress(ConnectionError):
                assert await r.read() == b""

    on(factory, story)
