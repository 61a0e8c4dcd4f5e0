"""A device API for tests: a real HTTP server on a free port that can misbehave in named ways."""

import asyncio
from contextlib import asynccontextmanager

from aiohttp import ClientSession, web

from shared.protocol.topics import Path as Paths


class DeviceApi:
    """`bytes` by digest are what is served; `misdeed` names how the next `misdeeds` answers go wrong.

    `ranges`: it knows them, as the real one does; `sent` counts the bytes of bodies that were given away.
    """

    def __init__(self):
        self.bytes = {}
        self.misdeed = None
        self.misdeeds = 0
        self.asked = []
        self.together = 0
        self.most_together = 0
        self.good_token = "good"
        self.retry_after = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""
        self.ranges = True
        self.sent = 0
        self.tick = asyncio.Event()

    async def answer(self, request):
        digest = request.match_info["digest"]
        self.asked.append(digest)
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
            return await self._answer(request, digest)
        finally:
            self.together -= 1

    async def _answer(self, request, digest):
        if request.headers.get("Authorization") != f"Bearer {self.good_token}":
            return web.Response(status=401)
        begin = request.http_range.start or 0 if self.ranges else 0
        if self.misdeeds > 0:
            self.misdeeds -= 1
            return await self._misbehave(request, self.bytes[digest], begin)
        if digest not in self.bytes:
            return web.Response(status=404)
        if begin >= len(self.bytes[digest]):
            return web.Response(status=416)
        return self._whole(self.bytes[digest], begin)

    def _whole(self, data, begin):
        self.sent += len(data) - begin
        if not begin:
            return web.Response(body=data)
        headers = {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}
        return web.Response(status=206, body=data[begin:], headers=headers)

    async def _part(self, request, data, begin):
        """The first half of what is asked for, under a promise of all of it."""
        length = str(len(data) - begin)
        headers = {"Content-Length": length, "ETag": '"one"'}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        answer = web.StreamResponse(status=206 if begin else 200, headers=headers)
        await answer.prepare(request)
        half = data[begin : begin + (len(data) - begin) // 2]
        self.sent += len(half)
        await answer.write(half)
        return answer

    async def _misbehave(self, request, data, begin):
        match self.misdeed:
            case int() as status:
                return web.Response(status=status, headers={"Retry-After": str(self.retry_after)})
            case "corrupt":
                return web.Response(body=bytes([data[0] ^ 1]) + data[1:])
            case "short":
                return web.Response(body=data[:-1])
            case "redirect":
                return web.Response(status=302, headers={"Location": "/elsewhere"})
            case "gzip":
                return web.Response(body=data, headers={"Content-Encoding": "gzip"})
            case "cut":
                answer = await self._part(request, data, begin)
                request.transport.close()
                return answer
            case "stall":
                await self._part(request, data, begin)
                await asyncio.Event().wait()
            case "other half":
                # It goes on, but with other bytes: somebody replaced the file in between.
                answer = await self._part(request, data, begin)
                self.bytes[request.match_info["digest"]] = bytes(len(data))
                request.transport.close()
                return answer
            case "trickle":
                answer = web.StreamResponse(headers={"Content-Length": str(len(data))})
                await answer.prepare(request)
                for i in range(len(data)):
                    await answer.write(data[i : i + 1])
                    await self.tick.wait()
                return answer
            case "endless":
                answer = web.StreamResponse()
                await answer.prepare(request)
                try:
                    while True:
                        await answer.write(b"x" * 65536)
                except (ConnectionError, asyncio.CancelledError):
                    return answer
            case "silent":
                await asyncio.Event().wait()
        raise AssertionError(self.misdeed)


@asynccontextmanager
async def device_api():
    """(api, client session)."""
    api = DeviceApi()
    app = web.Application()
    app.router.add_get(Paths.MANIFEST, api.answer)
    app.router.add_get(Paths.CHUNK, api.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with ClientSession() as http:
            yield api, http
    finally:
        await runner.cleanup()


class Tokens:
    """Gives `words` one after the other, the next when one is forgotten."""

    def __init__(self, *words):
        self.words = list(words) or ["good"]
        self.forgotten = []

    async def token(self):
        return self.words[0]

    def forget(self, token):
        self.forgotten.append(token)
        if len(self.words) > 1:
            self.words.pop(0)
