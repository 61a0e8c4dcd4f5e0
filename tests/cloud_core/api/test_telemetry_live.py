"""The live stream: levels as they change, within the tenant, bounded in number, gone when the server stops."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

from cloud_core.api import watchers
from cloud_core.loops.rollup import FLEET, roll_up
from cloud_core.store import devices
from cloud_core.store.database import write
from shared.protocol.reported import Birth
from tests.cloud_core.api.server import Client, Running, running
from tests.cloud_core.loops.fleet import HARDWARE
from tests.cloud_core.loops.telemetry import enrolled, sample, say


async def stream(client: Client, **query: str) -> AsyncIterator[Any]:
    url = f"{client.url}/api/v1/telemetry/live?{urlencode(query)}"
    async with client.session.get(url, headers={"Authorization": f"Bearer {client.token}"}) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        async for raw in response.content:
            if raw.startswith(b"data: "):
                yield msgspec.json.decode(raw[6:])


async def until(events: AsyncIterator[Any], requests: int) -> Any:
    async with asyncio.timeout(30):
        async for event in events:
            if sum(point["value"]["count"] for point in event["points"]) == requests:
                return event
    raise AssertionError("the stream ended")


async def measured(api: Running, seq: int, requests: int) -> None:
    now = time.time()
    await say(api.engine, "till", sample(seq, *[0.1] * requests, at=now - 5.0), tenant="default")
    async with write(api.engine) as connection:
        await roll_up(connection, FLEET, now=now)


def test_what_is_measured_now_is_told_as_it_changes(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            async with write(api.engine) as connection:
                await enrolled(connection, {"shops": ["till", "spare"]}, tenant="default")
                birth = Birth(epoch=1, agent_version="1", at=1.0, hardware=HARDWARE, state_digest="")
                await devices.record_birth(connection, "default", "till", birth, now=time.time())
            async with contextlib.aclosing(stream(api.admin, metric="requests", group="shops")) as events:
                assert (await until(events, 0))["points"] == []
                await measured(api, 1, 3)
                told = await until(events, 3)
                assert told["presence"] == {"online": 1, "stale": 0, "lost": 0, "never": 1}
                await measured(api, 2, 4)
                await until(events, 7)

    asyncio.run(scenario())


def test_streams_are_bounded_and_within_the_tenant(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api, contextlib.AsyncExitStack() as opened:
            other = await api.client("viewer", tenant="other")
            async with write(api.engine) as connection:
                await enrolled(connection, {"shops": ["till"]}, tenant="default")
            for _ in range(watchers.MOST):
                events = await opened.enter_async_context(contextlib.aclosing(stream(api.admin)))
                await anext(events)
            answer = await api.admin("GET", "/api/v1/telemetry/live")
            assert (answer.status, answer.headers["Retry-After"]) == (429, "10")
            foreign = await opened.enter_async_context(contextlib.aclosing(stream(other)))
            assert (await anext(foreign))["presence"] == {"online": 0, "stale": 0, "lost": 0, "never": 0}
            assert (await api.admin("GET", "/api/v1/telemetry/live?metric=noise")).status == 400
            assert (await api.anybody("GET", "/api/v1/telemetry/live")).status == 401

    asyncio.run(scenario())
