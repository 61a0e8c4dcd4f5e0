"""The event stream: the own tenant's events, once, in order, and nothing missed after a pause."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from cloud_core.store import commands
from tests.cloud_core.api.server import Client, Running, running


async def _stream(client: Client, last: str | None = None) -> AsyncIterator[tuple[str, Any]]:
    """(id, data) as they come; data None for the opening."""
    headers = {"Authorization": f"Bearer {client.token}"} | ({"Last-Event-ID": last} if last else {})
    async with client.session.get(client.url + "/api/v1/events", headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        block: dict[str, str] = {}
        async for raw in response.content:
            line = raw.decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                block[name] = value
            elif "id" in block:
                data = msgspec.json.decode(block["data"]) if "data" in block else block.get("event")
                # What the server itself made on its way up is not what these tests made.
                if not isinstance(data, dict) or data["resource"] == "groups":
                    yield block["id"], data
                block = {}


async def _make(api: Running, *names: str) -> None:
    for name in names:
        assert (await api.admin("POST", "/api/v1/groups", {"name": name})).status == 201


async def _take(stream: AsyncIterator[tuple[str, Any]], count: int) -> list[tuple[str, Any]]:
    async with asyncio.timeout(20):
        return [await anext(stream) for _ in range(count)]


def test_live_then_resumed(database_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(database_url, tmp_path) as api, contextlib.aclosing(_stream(api.admin)) as stream:
            (start, opening), *_ = await _take(stream, 1)
            assert opening is None
            await _make(api, "a", "b")
            found = await _take(stream, 2)
            assert [(data["kind"], data["resource"], data["name"]) for _, data in found] == [
                ("created", "groups", "a"),
                ("created", "groups", "b"),
            ]
            await stream.aclose()
            await _make(api, "c", "d")
            async with contextlib.aclosing(_stream(api.admin, found[0][0])) as resumed:
                opening_again = await _take(resumed, 1)
                assert opening_again == [(found[0][0], None)]
                await _make(api, "e")
                assert [data["name"] for _, data in await _take(resumed, 4)] == ["b", "c", "d", "e"]
            async with contextlib.aclosing(_stream(api.admin, start)) as everything:
                names = [data["name"] for _, data in (await _take(everything, 6))[1:]]
                assert names == ["a", "b", "c", "d", "e"]

    asyncio.run(scenario())


def test_other_tenants_are_not_heard(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            password = await commands.add_user(
                api.engine, tenant="other", name="boss", role="admin", password="", now=time.time()
            )
            boss = await api.login("boss", password, "other")
            async with contextlib.aclosing(_stream(boss)) as stream:
                await _take(stream, 1)
                await _make(api, "secret")
                await boss("POST", "/api/v1/groups", {"name": "own"})
                assert [data["name"] for _, data in await _take(stream, 1)] == ["own"]
            async with contextlib.aclosing(_stream(boss, "1")) as stream:
                assert [data["name"] for _, data in (await _take(stream, 2))[1:]] == ["own"]

    asyncio.run(scenario())


def test_an_id_of_another_database_says_so(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            async with contextlib.aclosing(_stream(api.admin, "999999")) as stream:
                ((start, opening),) = await _take(stream, 1)
                assert opening == "reset"
                assert int(start) < 999999
            assert (await api.admin("GET", "/api/v1/events", Last_Event_ID="x")).status == 400

    asyncio.run(scenario())


def test_the_server_stops_though_somebody_listens(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession())
            async with running(sqlite_url, tmp_path) as api:
                client = Client(session, api.url, api.admin.token)
                stream = await stack.enter_async_context(contextlib.aclosing(_stream(client)))
                await _take(stream, 1)
            async with asyncio.timeout(10):
                with contextlib.suppress(aiohttp.ClientError):
                    assert [item async for item in stream] == []

    asyncio.run(scenario())
