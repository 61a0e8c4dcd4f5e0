import asyncio
import contextlib
import json

import aiohttp
import pytest
import structlog
from aiohttp import web

from shared.io.web import Shape, Site, middlewares, read_body, read_json, shape_of
from shared.protocol.errors import Corrupt, Overloaded, Refusal, Refused, Transient, Unavailable
from tests.shared.serving.bundles import log_sink, until

ERRORS = {
    "refused": (Refused("no", kind=Refusal.CONFLICT, field="f", value=1, allowed="a"), 409, "conflict"),
    "overloaded": (Overloaded("busy", retry_after=2.1), 429, "overloaded"),
    "transient": (Transient("away", why=Unavailable.UNREACHABLE, retry_after=0.2), 503, "unreachable"),
    "corrupt": (Corrupt("broken"), 500, "corrupt"),
    "bug": (ValueError("secret detail"), 500, "internal"),
    "gone": (web.HTTPGone(), 410, "gone"),
}


@contextlib.asynccontextmanager
async def site(*routes, **options):
    log, lines = log_sink()
    app = web.Application(middlewares=middlewares(log))

    async def fail(request):
        structlog.contextvars.bind_contextvars(seen=True)
        raise ERRORS[request.match_info["kind"]][0]

    app.add_routes([web.get("/{at:.*}/fail/{kind}", fail), *routes])
    made = Site(**options)
    port = await made.start(app, host="127.0.0.1", port=0)
    made.lines, made.url = lines, f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession() as client:
            yield made, client
    finally:
        await made.close()


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v2", Shape.OIP),
        ("/v2/models/x", Shape.OIP),
        ("/v2x", Shape.PROBLEM),
        ("/v1/embeddings", Shape.OPENAI),
        ("/v1/chat/completions", Shape.OPENAI),
        ("/v1/models/x", Shape.OPENAI),
        ("/v1/modelsx", Shape.PROBLEM),
        ("/v1/tasks", Shape.PROBLEM),
        ("/api/v1/models", Shape.PROBLEM),
        ("/", Shape.PROBLEM),
    ],
)
def test_the_shape_of_an_error_is_chosen_by_path(path, shape):
    assert shape_of(path) is shape


def test_every_error_in_every_shape():
    async def main():
        async with site() as (server, client):
            for at in ("v2", "v1/models", "api/v1"):
                for kind, (_, status, code) in ERRORS.items():
                    async with client.get(f"{server.url}/{at}/fail/{kind}") as response:
                        assert response.status == status
                        raw = await response.text()
                        body = json.loads(raw)
                    assert "secret" not in raw
                    assert "Traceback" not in raw
                    assert "Server" not in response.headers
                    if at == "v2":
                        assert set(body) == {"error"}
                    elif at == "v1/models":
                        assert set(body["error"]) == {"message", "type", "param", "code"}
                        assert body["error"]["code"] == code
                    else:
                        assert (body["code"], body["status"]) == (code, status)
                        assert response.content_type == "application/problem+json"
                    after = {"overloaded": "3", "transient": "1"}.get(kind)
                    assert response.headers.get("Retry-After") == after
            bugs = [line for line in server.lines if line["event"].startswith("unexpected")]
            assert len(bugs) == 3
            assert all(line["request_id"] and "secret" not in line["event"] for line in bugs)

    asyncio.run(main())


def test_bodies_are_bounded_whatever_they_declare():
    async def take(request):
        return web.json_response(len(await read_body(request, 1000)))

    async def typed(request):
        return web.json_response(await read_json(request, dict[str, int], optional=True))

    async def main():
        async with site(web.post("/take", take), web.post("/typed", typed)) as (server, client):

            async def dribble(size):
                for _ in range(size // 100):
                    yield b"x" * 100

            for data, status in ((b"x" * 1000, 200), (b"x" * 1001, 413), (dribble(1000), 200), (dribble(5000), 413)):
                async with client.post(f"{server.url}/take", data=data) as response:
                    assert response.status == status
            async with client.post(f"{server.url}/typed", data=b"") as response:
                assert await response.json() == {}
            headers = {"Content-Type": "application/json"}
            for data, field in ((b'{"a": "b"}', "[...]"), (b"nope", "body"), (b"[" * 100_000, "body")):
                async with client.post(f"{server.url}/typed", data=data, headers=headers) as response:
                    assert (response.status, (await response.json(content_type=None))["field"]) == (400, field)
            for kind in ("application/merge-patch+json", "application/json; charset=utf-8"):
                async with client.post(
                    f"{server.url}/typed", data=b'{"a": 1}', headers={"Content-Type": kind}
                ) as response:
                    assert response.status == 200

    asyncio.run(main())


def test_a_site_drains_in_order():
    async def main():
        may, inside = asyncio.Event(), asyncio.Event()

        async def slow(_):
            inside.set()
            await may.wait()
            return web.Response(text="done")

        async with site(web.get("/slow", slow)) as (server, client):
            asking = asyncio.ensure_future(client.get(f"{server.url}/slow"))
            await inside.wait()
            assert server.in_flight == 1
            await server.stop_accepting()
            assert not await server.drain(0.01)
            async with aiohttp.ClientSession() as other:
                with pytest.raises(aiohttp.ClientConnectionError):
                    await other.get(f"{server.url}/slow")
            may.set()
            assert await server.drain(5)
            response = await asking
            assert (await response.text(), response.headers["Connection"]) == ("done", "close")

    asyncio.run(main())


def test_a_client_that_goes_away_cancels_its_handler_only_where_asked():
    async def main(cancel):
        inside, ended, may = asyncio.Event(), [], asyncio.Event()

        async def slow(_):
            inside.set()
            try:
                await may.wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            ended.append("finished")
            return web.Response()

        async with site(web.get("/slow", slow), cancel_on_disconnect=cancel) as (server, client):
            asking = asyncio.ensure_future(client.get(f"{server.url}/slow"))
            await inside.wait()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            if not cancel:
                may.set()
            await until(lambda: ended)
            assert ended == ["cancelled" if cancel else "finished"]
            await until(lambda: server.in_flight == 0)

    asyncio.run(main(True))
    asyncio.run(main(False))
