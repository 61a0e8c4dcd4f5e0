"""`fleetctl telemetry` against a real API: tables for people, the API's own answers as JSON."""

import asyncio
import time
from pathlib import Path

from cloud_core.loops.rollup import DEVICES, FLEET, roll_up
from cloud_core.store.database import write
from tests.cloud_core.api.server import running
from tests.cloud_core.ctl.shell import Ran, Shell
from tests.cloud_core.loops.telemetry import enrolled, sample, say

HOUR = int(time.time()) // 3600 * 3600 - 7200


def lines(ran: Ran) -> list[list[str]]:
    assert ran.status == 0, ran.err
    return [line.split() for line in ran.out.splitlines()]


def test_series_quantiles_top_and_comparison(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            fleetctl = Shell(api.url, tmp_path, FLEETCTL_TOKEN=api.admin.token or "")

            async def ctl(*arguments: str) -> Ran:
                return await fleetctl("telemetry", *arguments)

            assert (await ctl("quantiles")).out == "nothing was measured\n"
            async with write(api.engine) as connection:
                await enrolled(connection, {"shops": ["till-1", "till-2"]}, tenant="default")
            for device, latency in (("till-1", 0.01), ("till-2", 2.0)):
                for seq, version in enumerate(("1.0.0", "1.1.0")):
                    one = sample(seq, latency * (seq + 1), latency * (seq + 1), at=HOUR + seq * 60, version=version)
                    await say(api.engine, device, one, tenant="default")
            async with write(api.engine) as connection:
                for stage in (FLEET, DEVICES):
                    await roll_up(connection, stage, now=time.time())

            head, *rows = lines(await ctl("series", "--since", "6h", "--step", "60"))
            assert head == ["FROM", "COUNT", "MEAN", "P50", "P95", "P99"]
            assert [row[2:5] for row in rows] == [["4", "1005.0", "ms"], ["4", "2010.0", "ms"]]
            head, *rows = lines(await ctl("quantiles", "--since", "6h", "--by", "version", "--q", "0.5"))
            assert head == ["VERSION", "COUNT", "MEAN", "P50"]
            assert [row[:2] for row in rows] == [["1.0.0", "4"], ["1.1.0", "4"]]
            found = (await ctl("quantiles", "--since", "6h", "--group", "shops", "--json")).json
            assert [line["value"]["count"] for line in found] == [8]
            head, *rows = lines(await ctl("top", "--since", "6h", "--k", "1"))
            assert (head[0], rows[0][:2], len(rows)) == ("DEVICE", ["till-2", "4"], 1)
            assert lines(await ctl("top", "--since", "6h", "--metric", "requests"))[0] == ["DEVICE", "COUNT"]
            cpu = lines(await ctl("quantiles", "--since", "6h", "--metric", "cpu"))
            assert cpu == [["LOOKS", "MEAN", "LEAST", "MOST"], ["4", "0.1", "0.1", "0.1"]]
            head, base, candidate, caption = lines(await ctl("compare", "m", "1.0.0", "1.1.0", "--since", "6h"))
            assert head == ["VERSION", "REQUESTS", "ERRORS", "MEAN", "P50", "P95", "P99"]
            assert (base[:3], candidate[:3], caption[:4]) == (
                ["1.0.0", "4", "0"], ["1.1.0", "4", "0"], ["2", "devices", "ran", "both;"],
            )  # fmt: skip
            compared = (await ctl("compare", "m", "1.0.0", "1.1.0", "--since", "6h", "--json")).json
            assert compared["comparison"]["candidate"]["requests"] == 4
            nobody = await ctl("compare", "m", "1.0.0", "9.9.9", "--since", "6h")
            assert nobody.out == "no device ran both versions in that time\n"

            assert (await ctl("series", "--since", "soon")).status == 2
            unknown = await ctl("quantiles", "--metric", "noise")
            assert (unknown.status, "no such metric" in unknown.err) == (1, True)

    asyncio.run(scenario())
