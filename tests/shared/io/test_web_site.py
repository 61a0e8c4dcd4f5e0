"""Where a site listens: ports that are taken, sockets of the dead and of the living, and files that are neither."""

import asyncio
import socket

import aiohttp
import pytest
from aiohttp import web

from shared.io.web import Site
from shared.protocol.errors import Refused
from tests.shared.io.sites import run


async def hello(_):
    return web.Response(text="hello")


async def listening(path):
    app = web.Application()
    app.add_routes([web.get("/", hello)])
    made = Site()
    await made.start(app, host="127.0.0.1", port=0, uds=path)
    return made


async def said(path):
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as client,
        client.get("http://local/") as response,
    ):
        return await response.text()


def test_a_taken_port_is_refused_in_one_line():
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            with pytest.raises(Refused, match="in use") as caught:
                await Site().start(web.Application(), host="127.0.0.1", port=taken.getsockname()[1])
            assert caught.value.field == "port"

    asyncio.run(main())


def test_a_unix_socket_replaces_the_one_a_dead_process_left_and_goes_with_its_site(tmp_path):
    async def main():
        path = tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        made = await listening(path)
        try:
            assert await said(path) == "hello"
        finally:
            await made.close()
        assert not path.exists()

    asyncio.run(main())


def test_a_unix_socket_that_somebody_listens_on_is_left_alone(tmp_path):
    async def main():
        path = tmp_path / "s"
        made = await listening(path)
        try:
            with pytest.raises(Refused, match="in use") as caught:
                await listening(path)
            assert caught.value.field == "uds"
            assert await said(path) == "hello"
            # A successor's socket is not ours to remove.
            path.unlink()
            successor = await listening(path)
            await made.close()
            assert await said(path) == "hello"
            await successor.close()
        finally:
            await made.close()

    asyncio.run(main())


@pytest.mark.parametrize("name", ["precious", "a" * 200, "no/such/folder"])
def test_a_path_that_cannot_be_had_is_refused_and_left_alone(tmp_path, name):
    async def main():
        (tmp_path / "precious").write_text("data")
        with pytest.raises(Refused) as caught:
            await listening(tmp_path / name)
        assert caught.value.field == "uds"
        assert "None" not in caught.value.message
        assert (tmp_path / "precious").read_text() == "data"

    asyncio.run(main())


def test_a_crowd_that_comes_at_once_is_let_in_within_few_turns_of_the_loop(tmp_path):
    """libuv lets in one connection per turn and listening socket, however many wait."""

    async def main():
        site = Site()
        port = await site.start(web.Application(), host="127.0.0.1", port=0, uds=tmp_path / "s")
        clients = []
        try:
            for family, address in ((socket.AF_INET, ("127.0.0.1", port)), (socket.AF_UNIX, str(tmp_path / "s"))):
                # The kernel lets them in to its queue; the loop has no turn in between.
                for _ in range(64):
                    clients.append(socket.socket(family))
                    clients[-1].settimeout(10)
                    clients[-1].connect(address)
                for _ in range(16):
                    await asyncio.sleep(0)
                assert site.details()["connections"]["open"] == len(clients)
        finally:
            for client in clients:
                client.close()
            await site.close()

    run(main)
