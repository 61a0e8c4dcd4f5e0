"""Bodies: how long, in which encoding, and whether they are asked for at all."""

import asyncio
import gzip
import json
import zlib

import pytest
from aiohttp import web

from shared.io.web import LARGE, expecting, read_body, read_json
from tests.shared.io.sites import request, run, served

LIMIT = 1000
_raw = zlib.compressobj(wbits=-15)
FIT = b"x" * LIMIT
DEFLATED = _raw.compress(FIT) + _raw.flush()


async def size(asked):
    return web.json_response(len(await read_body(asked, LIMIT)))


TAKE = web.post("/v2/take", size, expect_handler=expecting(LIMIT))


async def told(raw, data):
    await raw.say(data)
    reply = await raw.reply()
    return reply.status, json.loads(reply.body)


def encoded(body, encoding):
    return request("/v2/take", method="POST", body=body, headers=[f"Content-Encoding: {encoding}"])


def test_bodies_come_in_the_encodings_that_are_offered():
    async def main():
        async with served(TAKE) as server:
            raw = await server.connect()
            for encoding, body in (
                ("identity", FIT),
                ("gzip", gzip.compress(FIT)),
                ("X-GZip", gzip.compress(FIT)),
                ("deflate", zlib.compress(FIT)),
                ("deflate", DEFLATED),
            ):
                assert await told(raw, encoded(body, encoding)) == (200, LIMIT), encoding

    run(main)


BAD = {
    "unknown": ("br", b"x", 415, "gzip, deflate"),
    "twice": ("gzip, gzip", gzip.compress(gzip.compress(FIT)), 415, "gzip, gzip"),
    "not at all": ("gzip", b"junk", 400, "not gzip"),
    "not deflate": ("deflate", b"\xff" * 9, 400, "not deflate"),
    "cut short": ("gzip", gzip.compress(FIT)[:-9], 400, "not one whole stream"),
    "more behind it": ("gzip", gzip.compress(FIT) + b"more", 400, "not one whole stream"),
    "many in one": ("gzip", gzip.compress(b"") * 40, 400, "not one whole stream"),
    "a bomb": ("gzip", zlib.compress(bytes(900_000), 9, wbits=31), 413, "1000 bytes"),
    "one byte": ("gzip", gzip.compress(FIT + b"x"), 413, "1000 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_encodings_that_lie_are_refused(name):
    encoding, body, status, says = BAD[name]

    async def main():
        async with served(TAKE) as server:
            raw = await server.connect()
            found, document = await told(raw, encoded(body, encoding))
            assert (found, set(document)) == (status, {"error"}), document
            assert says in document["error"]
            assert not server.lines

    run(main)


def test_a_body_that_would_be_refused_is_not_asked_for():
    async def main():
        async with served(TAKE) as server:
            expects = ["Expect: 100-continue"]
            raw = await server.connect()
            await raw.say(request("/v2/take", method="POST", declared=LIMIT, headers=expects))
            assert (await raw.reply()).status == 100
            assert await told(raw, FIT) == (200, LIMIT)
            raw = await server.connect()
            found, document = await told(raw, request("/v2/take", method="POST", declared=100 << 20, headers=expects))
            assert (found, "too large" in document["error"]) == (413, True)
            raw = await server.connect()
            unknown = ["Expect: a-miracle"]
            assert await told(raw, request("/v2/take", method="POST", body=FIT, headers=unknown)) == (200, LIMIT)
            found, document = await told(raw, request("/v2/nope", method="POST", headers=unknown))
            assert (found, set(document)) == (417, {"error"})

    run(main)


def test_a_refused_body_is_read_to_its_end_and_forgotten():
    async def main():
        async with served(TAKE) as server:
            raw = await server.connect()
            for _ in range(2):
                # Who sends all before it listens gets its answer, and may go on.
                found, document = await told(raw, request("/v2/take", method="POST", body=bytes(4 << 20)))
                assert (found, set(document)) == (413, {"error"})
            assert await told(raw, request("/v2/take", method="POST", body=FIT)) == (200, LIMIT)
            head = b"POST /v2/take HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            chunks = (b"3e8\r\n" + FIT + b"\r\n") * 2 + b"0\r\n\r\n"
            assert (await told(raw, head + chunks))[0] == 413

    run(main)


def test_chunks_that_break_in_the_middle_are_refused():
    async def main():
        async with served(TAKE) as server:
            raw = await server.connect()
            await raw.say(b"POST /v2/take HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            while server.site.in_flight == 0:
                await asyncio.sleep(0.001)
            found, document = await told(raw, b"nonsense\r\n")
            assert (found, set(document)) == (400, {"error"})
            await raw.gone()

    run(main)


def test_large_json_is_decoded_beside_the_loop():
    async def count(asked):
        return web.json_response(len(await read_json(asked, list[int])))

    async def main():
        async with served(web.post("/v2/count", count)) as server:
            raw = await server.connect()
            numbers = list(range(LARGE // 4))
            body = json.dumps(numbers).encode()
            assert len(body) > LARGE
            asked = request("/v2/count", method="POST", body=body, headers=["Content-Type: application/json"])
            assert await told(raw, asked) == (200, len(numbers))
            found, document = await told(raw, asked.replace(b"]", b"}"))
            assert (found, set(document)) == (400, {"error"})

    run(main)
