"""A real site on loopback, and a client that says exactly the bytes it wants."""

import asyncio
import contextlib
from typing import NamedTuple

import uvloop
from aiohttp import web

from shared.io.web import Limits, Site, middlewares, read_body
from tests.shared.serving.bundles import log_sink, until

PATIENCE_S = 30.0
"""How long a test waits for what must come."""


def run(main):
    """Run `main` on the loop that the programs run on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


class Reply(NamedTuple):
    """One answer, as it came."""

    status: int
    head: str
    body: bytes


class Raw:
    """One connection."""

    def __init__(self, reader, writer) -> None:
        self._reader = reader
        self.writer = writer

    async def say(self, data: bytes) -> None:
        """Send; a server that is gone already is the caller's to find out."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await asyncio.wait_for(self.writer.drain(), PATIENCE_S)

    async def reply(self) -> Reply:
        """The next answer."""
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE_S)).decode("latin-1")
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        size = int(fields.get("content-length", 0))
        return Reply(int(head.split()[1]), head, await asyncio.wait_for(self._reader.readexactly(size), PATIENCE_S))

    async def gone(self) -> bytes:
        """What comes until the server has ended the connection."""
        try:
            return await asyncio.wait_for(self._reader.read(), PATIENCE_S)
        except ConnectionError:
            return b""


class Served:
    """A site that listens, and its log."""

    def __init__(self, site: Site, port: int, lines: list) -> None:
        self.site = site
        self.port = port
        self.lines = lines
        self.url = f"http://127.0.0.1:{port}"
        self._open: list[Raw] = []

    @property
    def connections(self) -> dict[str, int]:
        """What `/health` would tell."""
        return self.site.details()["connections"]

    async def connect(self) -> Raw:
        """A connection that the site has seen."""
        raw = Raw(*await asyncio.open_connection("127.0.0.1", self.port))
        self._open.append(raw)
        return raw

    async def close(self) -> None:
        """End every connection of ours."""
        for raw in self._open:
            raw.writer.close()
            with contextlib.suppress(ConnectionError):
                await raw.writer.wait_closed()


@contextlib.asynccontextmanager
async def served(*routes, limits: Limits = Limits(), **options):  # noqa: B008 - a frozen value
    """A site with `routes`; at its end nothing of it is left."""
    log, lines = log_sink()
    app = web.Application(middlewares=middlewares(log))
    app.add_routes(routes)
    site = Site(limits=limits, **options)
    made = Served(site, await site.start(app, host="127.0.0.1", port=0), lines)
    try:
        yield made
        await made.close()
        await until(lambda: made.connections["open"] == 0)
        assert (site.in_flight, made.connections["bodies_bytes"]) == (0, 0)
    finally:
        await site.close()


def request(path="/", *, method="GET", body=b"", headers=(), declared=None):
    """The bytes of a request."""
    size = len(body) if declared is None else declared
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {size}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def size(asked):
    return web.json_response(len(await read_body(asked, 1 << 22)))


TAKE = web.post("/take", size)


async def hello(_):
    return web.Response(text="hello")


HELLO = web.get("/", hello)


async def answers(server):
    """A client that behaves is answered."""
    raw = await server.connect()
    await raw.say(request())
    assert (await raw.reply()).body == b"hello"
