"""A gateway that plays a part."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from shared.serving.answer import Label, Response, Where
from shared.serving.oip.http import encode_response


class FakeGateway:
    """A real HTTP server. `play` decides what it answers; `requests` is what it saw."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.url = ""
        self.serves: list[tuple[str, str]] = []
        self.described = 0
        self.variant, self.digest = "gpu", "d"
        self.play: Callable[[web.Request], Awaitable[web.StreamResponse]] = self.good

    async def good(self, request: web.Request) -> web.Response:
        score = 0.99
        response = Response(
            id="x",
            model=request.match_info["model"],
            version=request.match_info.get("version", "9.9.9"),
            variant=self.variant,
            digest=self.digest,
            task="text-classification",
            results=(Label(label="cloudy", score=score, scores={"cloudy": score}),),
            where=Where.CLOUD,
            why="served-here",
        )
        body = encode_response(response)
        return web.Response(body=body.data, headers=body.headers)

    def status(self, code: int, **headers: str) -> None:
        async def play(request: web.Request) -> web.Response:
            return web.json_response({"error": "as scripted"}, status=code, headers=headers)

        self.play = play

    def hang(self) -> asyncio.Event:
        release = asyncio.Event()

        async def play(request: web.Request) -> web.StreamResponse:
            await release.wait()
            return await self.good(request)

        self.play = play
        return release

    async def infer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append({"path": request.path, "headers": dict(request.headers), "body": await request.read()})
        return await self.play(request)

    async def index(self, request: web.Request) -> web.Response:
        return web.json_response([{"name": n, "version": v, "state": "READY", "reason": ""} for n, v in self.serves])

    async def metadata(self, request: web.Request) -> web.Response:
        self.described += 1
        told: dict[str, object] = {"task": "text-classification", "variant": "gpu", "digest": "d"}
        if request.match_info["version"] == "1.10.0":
            told["batch_invariant"] = False
        return web.json_response({"name": request.match_info["model"], "parameters": told})

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FakeGateway"]:
        app = web.Application()
        app.router.add_post("/v2/models/{model}/infer", self.infer)
        app.router.add_post("/v2/models/{model}/versions/{version}/infer", self.infer)
        app.router.add_post("/v2/repository/index", self.index)
        app.router.add_get("/v2/models/{model}/versions/{version}", self.metadata)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()
