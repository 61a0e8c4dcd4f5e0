"""A real API server on a free port over a real database, and clients of it by role."""

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.api.application import FEED, build_api
from cloud_core.config import Settings
from cloud_core.keys import Keys, load_or_create
from cloud_core.models.trial import Gate, PassedVersion
from cloud_core.store import commands
from cloud_core.store.database import open_database
from shared.bundle.manifest import Manifest
from shared.bundle.store import Readable
from shared.io.clock import SystemClock
from shared.io.web import Site
from shared.protocol.reported import Isolation

PASSWORD = "correct horse battery"


class Answer:
    """What came back."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        import msgspec

        return msgspec.json.decode(self.body)


class Client:
    """Speaks as one principal."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str | None) -> None:
        self.session = session
        self.url = url
        self.token = token

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Header names are given with `_` for `-`; `body` bytes go as they are, anything else as JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            named.setdefault("Authorization", f"Bearer {self.token}")
        given: dict[str, Any] = {}
        if isinstance(body, bytes):
            given["data"] = io.BytesIO(body)
            named.setdefault("Content-Type", "application/octet-stream")
        elif body is not None:
            given["json"] = body
        async with self.session.request(method, self.url + path, headers=named, **given) as response:
            return Answer(response.status, response.headers, await response.read())

    def as_token(self, token: str | None) -> "Client":
        return Client(self.session, self.url, token)


class OpenGate:
    """Lets every version pass: most bundles of these tests hold no program. What the real gate does is tested with real ones."""

    isolation = Isolation.NONE

    async def passed(self, data: bytes, manifest: Manifest, store: Readable) -> PassedVersion:
        return PassedVersion()


class Running:
    """The server and its admin."""

    def __init__(self, engine: AsyncEngine, keys: Keys, settings: Settings, admin: Client) -> None:
        self.engine = engine
        self.keys = keys
        self.settings = settings
        self.admin = admin
        self.url = admin.url
        self.anybody = admin.as_token(None)

    async def client(self, role: str, *, tenant: str = "default") -> Client:
        """A client with a fresh API token of a role."""
        if tenant != "default":
            name = f"first-{role}"
            await commands.add_user(
                self.engine, tenant=tenant, name=name, role="viewer", password=PASSWORD, now=SystemClock().wall()
            )
        token = await commands.create_token(
            self.engine, tenant=tenant, name=f"the-{role}", role=role, valid_s=None, now=SystemClock().wall()
        )
        return self.admin.as_token(token)

    async def login(self, name: str, password: str = PASSWORD, tenant: str = "default") -> Client:
        answer = await self.anybody("POST", "/api/v1/login", {"tenant": tenant, "name": name, "password": password})
        assert answer.status == 200, answer.body
        return self.admin.as_token(answer.json["token"])


@asynccontextmanager
async def running(url: str, folder: Path, *, gate: Gate | None = None, **settings: Any) -> AsyncIterator[Running]:
    """The API over the migrated database at `url`, with `admin` logged in."""
    chosen = Settings(data_dir=str(folder / "data"), database_url=url, admin_password=PASSWORD, **settings)
    keys = load_or_create(chosen.secrets)
    engine = open_database(url)
    clock = SystemClock()
    log = structlog.wrap_logger(structlog.PrintLogger(), processors=[structlog.processors.KeyValueRenderer()])
    await commands.ensure_first_run(engine, chosen, keys, clock.wall())
    site = Site()
    application = build_api(chosen, engine, keys, log, CollectorRegistry(), clock, gate or OpenGate())
    port = await site.start(application, host="127.0.0.1", port=0)
    events = asyncio.create_task(application[FEED].run(), name="events")
    try:
        async with aiohttp.ClientSession() as session:
            client = Client(session, f"http://127.0.0.1:{port}", None)
            it = Running(engine, keys, chosen, client)
            it.admin = await it.client("admin")
            yield it
    finally:
        application[FEED].close()
        events.cancel()
        # Over before the database goes: a query that is given up in between would wait for a connection that is gone.
        await asyncio.wait((events,))
        await site.close()
        await engine.dispose()
