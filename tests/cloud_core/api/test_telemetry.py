"""Telemetry over REST: merged and never averaged, in pages, within the caller's tenant, refused by name."""

import asyncio
import math
import random
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from cloud_core.loops.rollup import DEVICES, FLEET, roll_up
from cloud_core.store.database import write
from shared.protocol.telemetry import RELATIVE_ERROR
from tests.cloud_core.api.server import Answer, Client, Running, running
from tests.cloud_core.loops.telemetry import enrolled, sample, say

HOUR = int(time.time()) // 3600 * 3600 - 7200
DICE = random.Random(5)
SLOW = [DICE.uniform(1.0, 2.0) for _ in range(20)]
FAST = [DICE.uniform(0.01, 0.02) for _ in range(200)]


def exact(values: list[float], q: float) -> float:
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


async def _filled(api: Running, *, tenant: str = "default") -> None:
    """Two tills in `shops`, one of them slow, and one device outside."""
    async with write(api.engine) as connection:
        await enrolled(connection, {"shops": ["till-1", "till-2"], "others": ["door"]}, tenant=tenant)
    said = (
        ("till-1", sample(1, *FAST[:100], at=HOUR), sample(2, *FAST[100:], at=HOUR + 60, version="1.1.0")),
        ("till-2", sample(1, *SLOW, at=HOUR + 10), sample(2, 5.0, at=HOUR + 3600, outcome="timeout", place="cloud")),
        ("door", sample(1, 9.0, at=HOUR, model="other")),
    )
    for device, *samples in said:
        await say(api.engine, device, *samples, tenant=tenant)
    async with write(api.engine) as connection:
        for stage in (FLEET, DEVICES):
            await roll_up(connection, stage, now=time.time())


async def ask(client: Client, what: str, **query: object) -> Answer:
    named = {("from" if name == "start" else "to" if name == "end" else name): value for name, value in query.items()}
    return await client("GET", f"/api/v1/telemetry/{what}?{urlencode(named)}")


async def items(client: Client, what: str, **query: object) -> list[Any]:
    answer = await ask(client, what, **{"start": HOUR, "end": HOUR + 7200, **query})
    assert answer.status == 200, answer.body
    found: list[Any] = answer.json["items"]
    return found


def test_a_fleets_quantiles_are_those_of_all_its_requests(database_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(database_url, tmp_path) as api:
            await _filled(api)
            for selected, values in (
                ({"model": "m"}, [*FAST, *SLOW, 5.0]),
                ({"group": "shops"}, [*FAST, *SLOW, 5.0]),
                ({"group": "shops", "where": "local"}, [*FAST, *SLOW]),
                ({"model": "m", "version": "1.1.0"}, FAST[100:]),
                ({"device": "till-2", "where": "local"}, SLOW),
                ({}, [*FAST, *SLOW, 5.0, 9.0]),
            ):
                (line,) = await items(api.admin, "quantiles", q="0.5,0.9,0.99", **selected)
                value = line["value"]
                assert value["count"] == len(values), selected
                assert value["mean"] == pytest.approx(sum(values) / len(values))
                for q in (0.5, 0.9, 0.99):
                    assert value["quantiles"][str(q)] == pytest.approx(exact(values, q), rel=RELATIVE_ERROR), selected
            by = await items(api.admin, "quantiles", by="where,version", model="m")
            assert [(line["by"]["where"], line["by"]["version"], line["value"]["count"]) for line in by] == [
                ("cloud", "1.0.0", 1), ("local", "1.0.0", 120), ("local", "1.1.0", 100),
            ]  # fmt: skip
            (timeouts,) = await items(api.admin, "quantiles", metric="requests/timeout")
            assert timeouts["value"]["count"] == 1
            assert await items(api.admin, "quantiles", group="absent") == []
            assert await items(api.admin, "quantiles", metric="temperature_c") == []
            (cpu,) = await items(api.admin, "quantiles", metric="cpu")
            assert (cpu["value"]["count"], cpu["value"]["least"]) == (5, 0.1)

    asyncio.run(scenario())


def test_series_come_in_pages_without_gaps_or_repetitions(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            await _filled(api)
            expected = [(HOUR, 101), (HOUR + 10, 20), (HOUR + 60, 100), (HOUR + 3600, 1)]
            for limit in (1, 2, 3, 4, 100):
                seen, query = [], {"start": HOUR, "end": HOUR + 7200, "step": 10, "limit": limit}
                while True:
                    page = (await ask(api.admin, "series", **query)).json
                    seen += [(point["at"], point["value"]["count"]) for point in page["items"]]
                    assert len(page["items"]) <= limit
                    if page["next"] is None:
                        break
                    query["cursor"] = page["next"]
                assert seen == expected
            for step, points in ((60, [121, 100, 1]), (3600, [221, 1])):
                assert [point["value"]["count"] for point in await items(api.admin, "series", step=step)] == points
            (slow, late) = await items(api.admin, "series", device="till-2", metric="requests", step=60)
            assert (slow["at"], slow["seconds"], slow["value"]["count"], late["at"]) == (HOUR, 60, 20, HOUR + 3600)
            assert {point["seconds"] for point in await items(api.admin, "series")} == {10}
            week = await items(api.admin, "series", start=HOUR - 7 * 86400)
            assert {point["seconds"] for point in week} == {3600}

    asyncio.run(scenario())


def test_the_most_of_something(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            await _filled(api)

            async def named(**query: object) -> list[tuple[str, ...]]:
                return [tuple(line["by"].values()) for line in await items(api.admin, "top", **query)]

            assert await named() == [("door",), ("till-2",), ("till-1",)]
            assert await named(k=1, metric="requests") == [("till-1",)]
            assert await named(metric="errors") == [("till-2",)]
            assert await named(group="shops") == [("till-2",), ("till-1",)]
            assert await named(by="group") == [("others",), ("shops",)]
            assert await named(by="model", rank="count") == [("m",), ("other",)]
            assert await named(by="model,version", rank="mean", model="m") == [("m", "1.0.0"), ("m", "1.1.0")]

    asyncio.run(scenario())


def test_two_versions_on_the_same_devices(database_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(database_url, tmp_path) as api:
            await _filled(api)
            query = {"model": "m", "base": "1.0.0", "candidate": "1.1.0", "start": HOUR, "end": HOUR + 3600}
            found = (await ask(api.admin, "comparison", **query)).json
            # till-2, the slow one, ran 1.0.0 alone: it says nothing about the difference.
            assert found["devices"] == 1
            base, candidate = found["comparison"]["base"], found["comparison"]["candidate"]
            assert (base["count"], candidate["count"], base["requests"]) == (100, 100, 100)
            assert base["mean"] == pytest.approx(sum(FAST[:100]) / 100)
            assert candidate["quantiles"]["0.99"] == pytest.approx(exact(FAST[100:], 0.99), rel=RELATIVE_ERROR)
            assert 0.0 <= found["comparison"]["kolmogorov_smirnov"] < 0.4
            none = (await ask(api.admin, "comparison", **query, group="others")).json
            assert (none["devices"], none["comparison"]["wasserstein"]) == (0, None)

    asyncio.run(scenario())


def test_what_cannot_be_asked_is_refused_by_name(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            compare = {"model": "m", "base": "1.0.0", "candidate": "1.1.0"}
            for what, query, field in (
                ("series", {"metric": "colour"}, "metric"),
                ("series", {"metric": "requests/"}, "metric"),
                ("series", {"start": 10, "end": 10}, "from"),
                ("series", {"start": "soon"}, "from"),
                ("series", {"end": "nan"}, "to"),
                ("series", {"end": -1}, "to"),
                ("series", {"start": 0, "end": time.time()}, "from"),
                ("series", {"step": 7}, "step"),
                ("series", {"step": 10, "device": "till-1"}, "step"),
                ("series", {"step": 10, "start": time.time() - 3 * 86400}, "from"),
                ("series", {"cursor": "eA=="}, "cursor"),
                ("series", {"limit": 0}, "limit"),
                ("series", {"q": "1.5"}, "q"),
                ("series", {"q": "nan"}, "q"),
                ("series", {"q": ""}, "q"),
                ("quantiles", {"by": "colour"}, "by"),
                ("quantiles", {"by": "group,device"}, "by"),
                ("quantiles", {"by": "model,model"}, "by"),
                ("quantiles", {"group": "shops", "device": "till-1"}, "device"),
                ("quantiles", {"step": 10}, "step"),
                ("top", {"k": 0}, "k"),
                ("top", {"k": "many"}, "k"),
                ("top", {"rank": "beauty"}, "rank"),
                ("top", {"cursor": ""}, "cursor"),
                ("comparison", {}, "model"),
                ("comparison", {**compare, "candidate": ""}, "candidate"),
                ("comparison", {**compare, "candidate": "1.0.0"}, "candidate"),
                ("comparison", {**compare, "metric": "cpu"}, "metric"),
            ):
                answer = await ask(api.admin, what, **query)
                assert answer.status in (400, 422), (what, query, answer.body)
                assert answer.json["field"] == field, (what, query, answer.json)

    asyncio.run(scenario())


def test_another_tenants_telemetry_is_nowhere(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            boss = await api.client("admin", tenant="other")
            await _filled(api)
            compare = {"model": "m", "base": "1.0.0", "candidate": "1.1.0"}
            for selected in ({}, {"group": "shops"}, {"device": "till-1"}, {"model": "m"}):
                for what in ("series", "quantiles", "top"):
                    assert await items(boss, what, **selected) == []
                    assert await items(api.admin, what, **selected) != []
            for client, devices in ((boss, 0), (api.admin, 1)):
                answer = await ask(client, "comparison", **compare, start=HOUR, end=HOUR + 3600)
                assert answer.json["devices"] == devices
            await _filled(api, tenant="other")
            (line,) = await items(api.admin, "quantiles", metric="requests")
            assert line["value"]["count"] == len(FAST) + len(SLOW) + 2

    asyncio.run(scenario())
