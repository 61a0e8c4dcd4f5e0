"""Who has a place at a server, and how much room the bodies of all clients have."""

import asyncio
import json

from aiohttp import web

from shared.io import web_door
from shared.io.web import Limits
from shared.io.web_door import PIECE, Door
from tests.shared.io.sites import HELLO, TAKE, answers, request, run, served
from tests.shared.serving.bundles import until


def test_a_new_connection_takes_the_place_of_the_one_waited_for_the_longest():
    async def main():
        async with served(HELLO, TAKE, limits=Limits(connections=3)) as server:
            idle = await server.connect()
            begun = await server.connect()
            await begun.say(b"GET / HTTP/1.1\r\n")
            body = await server.connect()
            await body.say(request("/take", method="POST", body=b"x", declared=10))
            await until(lambda: server.site.in_flight == 1)
            await idle.say(request())
            assert (await idle.reply()).body == b"hello"
            for each in (begun, body, idle):
                # The one answered last is waited for the shortest.
                await answers(server)
                assert await each.gone() == b""
            await until(lambda: server.site.in_flight == 0)
            assert (server.connections["open"], server.connections["turned_away"]) == (3, 0)
            assert not server.lines

    run(main)


def test_who_is_being_answered_keeps_its_place():
    may = asyncio.Event()

    async def slow(_):
        await may.wait()
        return web.Response(text="late")

    async def main():
        async with served(web.get("/slow", slow), HELLO, limits=Limits(connections=2)) as server:
            asking = [await server.connect() for _ in range(2)]
            for raw in asking:
                await raw.say(request("/slow"))
            await until(lambda: server.site.in_flight == 2)
            late = await server.connect()
            assert await late.gone() == b""
            assert server.connections["turned_away"] == 1
            may.set()
            assert [(await raw.reply()).body for raw in asking] == [b"late"] * 2
            await answers(server)

    run(main)


def test_there_are_fewer_connections_than_the_process_may_open_files(monkeypatch):
    monkeypatch.setattr(web_door.resource, "getrlimit", lambda _: (1024, 4096))
    assert Door(Limits(connections=1 << 20)).most == 896
    assert Door(Limits(connections=10)).most == 10
    monkeypatch.setattr(web_door.resource, "getrlimit", lambda _: (100, 100))
    assert Door(Limits(connections=1 << 20)).most == 50


def test_large_bodies_share_one_room_and_small_ones_are_always_taken():
    async def main():
        limits = Limits(bodies_bytes=3 * PIECE)
        async with served(TAKE, limits=limits, cancel_on_disconnect=True) as server:
            holder = await server.connect()
            await holder.say(request("/take", method="POST", body=bytes(3 * PIECE), declared=4 * PIECE))
            await until(lambda: server.connections["bodies_bytes"] == 2 * PIECE)
            refused = await server.connect()
            await refused.say(request("/take", method="POST", declared=3 * PIECE))
            reply = await refused.reply()
            assert (reply.status, json.loads(reply.body)["code"]) == (429, "bodies")
            assert "retry-after: 1" in reply.head.lower()
            chunked = await server.connect()
            head = b"POST /take HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            await chunked.say(head + (b"10000\r\n" + bytes(1 << 16) + b"\r\n") * 3)
            assert (await chunked.reply()).status == 429
            small = await server.connect()
            await small.say(request("/take", method="POST", body=bytes(PIECE)))
            assert int((await small.reply()).body) == PIECE
            await holder.say(bytes(PIECE))
            assert int((await holder.reply()).body) == 4 * PIECE
            await until(lambda: server.connections["bodies_bytes"] == 0)
            await holder.say(request("/take", method="POST", body=bytes(4 * PIECE)))
            assert int((await holder.reply()).body) == 4 * PIECE

    run(main)
