"""What clients may take of a server: slow ones, greedy ones, many of them, and those that do not speak HTTP."""

import asyncio
import json
import logging

import pytest
from aiohttp import web

from shared.io.web import Limits, read_body
from shared.io.web_door import PIECE
from tests.shared.io.sites import HELLO, TAKE, answers, request, run, served
from tests.shared.serving.bundles import until

NO_HTTP = {
    "noise": b"\x00\x01\xff garbage\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(90),
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version": b"GET / HTTP/7.1\r\nHost: x\r\n\r\n",
    "two lengths": request(headers=["Content-Length: 5"]),
    "length and chunks": request(headers=["Transfer-Encoding: chunked"]),
    "a length that is too short": request("/take", method="POST", body=b"{" + b"x" * 900, declared=5),
    "negative length": request(declared=-1),
    "length past 64 bits": request(declared=10**30),
    "unknown transfer": b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: foo\r\n\r\n",
    "bad chunk": b"POST /take HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "huge chunk": b"POST /take HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n",
    "thousands of headers": request(headers=[f"h{i}: 1" for i in range(5000)]),
    "thousands of trailers": b"POST /take HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    + b"".join(b"t%d: 1\r\n" % i for i in range(5000)),
    "long header": request(headers=["h: " + "a" * 100_000]),
    "long path": request("/" + "a" * 100_000),
    "zero in a header": request(headers=["h: a\x00b"]),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "no url": b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_what_is_no_http_is_refused_once_and_not_logged(name, caplog):
    async def main():
        async with served(HELLO, TAKE) as server:
            raw = await server.connect()
            await raw.say(NO_HTTP[name])
            reply = await raw.reply()
            document = json.loads(reply.body)
            assert (reply.status, document["status"], document["error"]) == (400, 400, document["detail"])
            assert "aiohttp" not in reply.head.lower()
            assert len(reply.body) < 2000
            assert await raw.gone() == b""
            await answers(server)
            assert not server.lines

    with caplog.at_level(logging.WARNING):
        run(main)
    assert not caplog.records


def test_pipelined_requests_are_answered_in_order_and_garbage_behind_them_is_refused():
    async def main():
        async with served(HELLO, TAKE) as server:
            raw = await server.connect()
            await raw.say(b"".join(request("/take", method="POST", body=b"x" * i) for i in range(100)))
            assert [int((await raw.reply()).body) for _ in range(100)] == list(range(100))
            await raw.say(b"GARBAGE\x00\r\n\r\n")
            assert (await raw.reply()).status == 400
            assert await raw.gone() == b""
            await answers(server)

    run(main)


def test_no_client_may_send_ahead_of_its_answers_without_end():
    may = asyncio.Event()

    async def slow(_):
        await may.wait()
        return web.Response()

    async def main():
        async with served(HELLO, TAKE, web.get("/slow", slow), cancel_on_disconnect=True) as server:
            raw = await server.connect()
            await raw.say(request("/slow"))
            await until(lambda: server.site.in_flight == 1)
            await raw.say(request("/take", method="POST", body=bytes(1 << 20)) * 3)
            assert await raw.gone() == b""
            await until(lambda: server.site.in_flight == 0)
            await answers(server)

    run(main)


@pytest.mark.parametrize("begun", [b"", b"x" * 1000])
def test_a_body_that_does_not_come_ends_with_its_connection(begun):
    async def main():
        async with served(HELLO, TAKE, limits=Limits(patience_s=0.2)) as server:
            raw = await server.connect()
            await raw.say(request("/take", method="POST", body=begun, declared=5000))
            await answers(server)
            reply = await raw.reply()
            document = json.loads(reply.body)
            assert (reply.status, document["code"], document["field"]) == (408, "too-slow", "body")
            assert "connection: close" in reply.head.lower()
            await raw.say(b"x" * 5000)
            assert await raw.gone() == b""
            await answers(server)
            assert not server.lines

    run(main)


def test_a_body_that_was_given_up_is_never_taken_for_a_whole_one():
    late = asyncio.Event()

    async def take(asked):
        await late.wait()
        return web.json_response(len(await read_body(asked)))

    async def main():
        async with served(web.post("/late", take), limits=Limits(patience_s=0.1)) as server:
            raw = await server.connect()
            await raw.say(request("/late", method="POST", body=b"x" * 9, declared=10))
            await until(lambda: server.site.in_flight == 1)
            # Longer than its patience; nobody is told of it but the body.
            await asyncio.sleep(0.4)
            late.set()
            assert (await raw.reply()).status == 408

    run(main)


def test_a_body_that_dribbles_is_no_better():
    async def main():
        async with served(HELLO, TAKE, limits=Limits(patience_s=0.3)) as server:
            raw = await server.connect()
            await raw.say(request("/take", method="POST", declared=100_000))
            ending = asyncio.ensure_future(raw.gone())
            while not ending.done():
                await raw.say(b"x")
                await asyncio.sleep(0.01)
            # Who goes on sending may lose the answer with its connection.
            assert (await ending)[:12] in (b"HTTP/1.1 408", b"")
            await answers(server)
            assert server.site.in_flight == 0

    run(main)


def test_a_long_body_at_a_fair_pace_is_taken():
    async def main():
        async with served(TAKE, limits=Limits(patience_s=1.5)) as server:
            raw = await server.connect()
            await raw.say(request("/take", method="POST", declared=8 * 2 * PIECE))
            for _ in range(8):
                # Slower as a whole than the site's patience, faster piece by piece.
                await asyncio.sleep(0.25)
                await raw.say(bytes(2 * PIECE))
            assert int((await raw.reply()).body) == 8 * 2 * PIECE

    run(main)


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_does_not_come_ends_with_its_connection(begun):
    async def main():
        async with served(HELLO, limits=Limits(idle_s=0.3)) as server:
            raw = await server.connect()
            await raw.say(request())
            assert (await raw.reply()).body == b"hello"
            for each in (raw, await server.connect()):
                await each.say(begun)
                assert await each.gone() == b""
            await answers(server)

    run(main)


def test_an_answer_that_nobody_reads_ends_with_its_connection():
    async def much(_):
        return web.Response(body=bytes(32 << 20))

    async def main():
        async with served(web.get("/much", much), HELLO, limits=Limits(patience_s=0.2)) as server:
            deaf = await server.connect()
            deaf.writer.transport.pause_reading()
            await deaf.say(request("/much"))
            await until(lambda: server.connections["open"] == 0, 30)
            await answers(server)
            assert not server.lines

    run(main)


def test_an_answer_that_is_read_at_a_fair_pace_gets_out():
    async def much(_):
        return web.Response(body=bytes(8 << 20))

    async def main():
        async with served(web.get("/much", much), limits=Limits(patience_s=1.5)) as server:
            slow = await server.connect()
            transport = slow.writer.transport
            await slow.say(request("/much"))
            asking = asyncio.ensure_future(slow.reply())
            for _ in range(8):
                transport.pause_reading()
                await asyncio.sleep(0.25)
                transport.resume_reading()
                await asyncio.sleep(0.02)
            assert len((await asking).body) == 8 << 20

    run(main)


@pytest.mark.parametrize("cancel", [True, False])
def test_a_client_that_goes_away_in_its_body_leaves_nothing(cancel):
    async def main():
        async with served(TAKE, HELLO, cancel_on_disconnect=cancel) as server:
            raw = await server.connect()
            await raw.say(request("/take", method="POST", body=bytes(3 * PIECE), declared=4 * PIECE))
            await until(lambda: server.connections["bodies_bytes"] == 2 * PIECE)
            raw.writer.transport.abort()
            await until(lambda: server.site.in_flight == 0)
            assert server.connections["bodies_bytes"] == 0
            await answers(server)
            assert not server.lines

    run(main)
