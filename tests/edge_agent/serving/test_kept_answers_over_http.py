"""What a caller sees of kept answers: the real faces in front of the real router."""

from typing import Any

import aiohttp
import structlog
from aiohttp import web

from edge_agent.serving import why
from shared.io.web import middlewares
from shared.serving.faces import http
from shared.serving.faces.readiness import Readiness
from tests.edge_agent.serving.world import MODEL, TENANT, Device, FakeGateway, in_device

INFER = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}]}


async def seen(device: Device) -> dict[str, Any]:
    """Two equal questions on each face, then the statistics and the second one's story."""

    async def principal_of(_: web.Request) -> str:
        return TENANT

    app = web.Application(middlewares=middlewares(structlog.get_logger()))
    readiness = Readiness(catalog=device.engine)
    router = device.router
    app.add_routes(http.routes(router, router, clock=device.clock, principal_of=principal_of, readiness=readiness))
    why.add_routes(app, device.ring)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    found: dict[str, Any] = {}
    try:
        async with aiohttp.ClientSession(base) as client:
            for face, path, body in (
                ("oip", f"/v2/models/{MODEL}/infer", INFER),
                ("plain", "/predict", {"model": MODEL, "text": "hello again"}),
            ):
                for turn in ("first", "second"):
                    async with client.post(path, json=body, headers={"X-Request-Id": f"{face}-{turn}"}) as answer:
                        found[f"{face} {turn}"] = (answer.status, dict(answer.headers), await answer.json())
            async with client.get(f"/v2/models/{MODEL}/stats") as answer:
                found["stats"] = (await answer.json())["model_stats"][0]
            async with client.get("/v1/why/oip-second") as answer:
                found["why"] = await answer.json()
    finally:
        await runner.cleanup()
    return found


def test_a_hit_says_so_in_headers_statistics_and_its_story() -> None:
    async def test(device: Device, gateway: FakeGateway) -> None:
        device.policy(cache_bytes=1 << 20)
        found = await seen(device)
        for face in ("oip", "plain"):
            (status, headers, first), (again, cached, second) = found[f"{face} first"], found[f"{face} second"]
            assert (status, again) == (200, 200)
            assert (headers["X-Tideline-Where"], cached["X-Tideline-Where"]) == ("local", "cache")
            assert cached["X-Tideline-Why"] == "cache-hit"
            assert cached["X-Tideline-Model"] == headers["X-Tideline-Model"]
            assert first.get("outputs") == second.get("outputs")
            assert first.get("result") == second.get("result")
        counted = found["stats"]["inference_stats"]
        assert (counted["success"]["count"], counted["cache_hit"]["count"], counted["cache_miss"]["count"]) == (4, 2, 2)
        assert (found["stats"]["inference_count"], found["stats"]["execution_count"]) == (2, 2)
        assert (found["why"]["decision"], found["why"]["where"], found["why"]["reason"]) == (
            "cache",
            "cache",
            "cache-hit",
        )

    in_device(test, enrol=False)
