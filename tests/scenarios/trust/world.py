"""A real control plane's API over HTTP, a real device that enrolled there, and somebody between them who may do anything."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import structlog

from cloud_core.store import tenants
from cloud_core.store.database import read, write
from cloud_core.trust.keys import KeyFolder
from cloud_core.trust.metadata import root_of
from cloud_core.trust.repository import Repository
from edge_agent.control.enrol import Enrolment, enrol_once
from edge_agent.control.fetch import Fetcher
from edge_agent.control.fetch_http import HttpSource
from edge_agent.control.identity import AccessTokens, Identity, load_identity
from edge_agent.control.trust_client import FOLDER, TrustClient
from edge_agent.control.trust_pin import Pin
from edge_agent.control.trust_record import TrustRecord
from edge_agent.control.trust_update import Fetch
from shared.io.clock import SystemClock
from shared.protocol.desired import ModelRef
from shared.protocol.errors import Corrupt, Refusal, Refused
from shared.protocol.reported import Hardware
from shared.protocol.trust import PIN, ROLES
from tests.cloud_core.api import bundles
from tests.cloud_core.api.server import Running, running

DAY_S = 86400.0
HARDWARE = Hardware(hardware_class="box", machine="x86_64", cpus=4, memory_bytes=1 << 30)
LOG = structlog.wrap_logger(structlog.PrintLogger(), processors=[structlog.processors.KeyValueRenderer()])


class Between:
    """The way to the cloud: `replaced` files come instead of the real ones, `missing` ones do not come."""

    def __init__(self, real: Fetch) -> None:
        self._real = real
        self.replaced: dict[str, bytes] = {}
        self.missing: set[str] = set()
        self.asked: list[str] = []

    async def __call__(self, path: str, max_bytes: int, /) -> bytes:
        file = path.rpartition("/")[2]
        self.asked.append(file)
        if file in self.missing:
            raise Refused("not here", kind=Refusal.NOT_FOUND)
        if file in self.replaced:
            if len(self.replaced[file]) > max_bytes:
                raise Corrupt("too long", code="too-long")
            return self.replaced[file]
        return await self._real(path, max_bytes)


class Device:
    """One run of the part of an agent that trusts; `restarted` is another one on the same folder."""

    def __init__(self, state: Path, identity: Identity, http: aiohttp.ClientSession, url: str) -> None:
        self.state, self.identity, self._http, self._url = state, identity, http, url
        self.between = Between(self.way_to(url))
        self.record = TrustRecord(state)
        self.use(self.between)

    def way_to(self, url: str) -> Fetch:
        """As an agent fetches, from the server at `url`."""
        clock, own = SystemClock(), msgspec.structs.replace(self.identity.own, api_url=self._url)
        tokens = AccessTokens(own, self.identity.signer, http=self._http, clock=clock)
        return Fetcher(HttpSource(self._http, api_url=url, tokens=tokens), clock=clock).small

    def use(self, fetch: Fetch) -> None:
        """Another way from here on."""
        clock = SystemClock()
        pin = Pin(self.state, self.identity, fetch, clock=clock)
        self.client = TrustClient(self.state, self.record, pin, fetch, clock=clock, log=LOG, draw=lambda: 0.5)

    def restarted(self, *, files_lost: bool = False) -> "Device":
        """`files_lost`: the power went, and with it whatever python-tuf had written."""
        self.record.close()
        if files_lost:
            shutil.rmtree(self.state / FOLDER)
        identity = load_identity(self.state)
        assert identity is not None
        again = Device(self.state, identity, self._http, self._url)
        again.between.replaced, again.between.missing = self.between.replaced, self.between.missing
        return again

    def versions(self) -> dict[str, int]:
        return {role: one.version for role, one in self.record.floors().items()}


class World:
    """The control plane of `api`, and what its operators and whoever stole their keys can do."""

    def __init__(self, api: Running, folder: Path, http: aiohttp.ClientSession) -> None:
        self.api, self._folder, self._http = api, folder, http
        self.repository = Repository(api.settings.trust_keys, api.keys.generation)

    def keys(self, tenant: str = "default") -> KeyFolder:
        """The control plane's own."""
        return KeyFolder(self.api.settings.trust_keys / tenant)

    async def publish(self, version: str = "1.0.0", name: str = "tiny") -> ModelRef:
        """As an operator does, over the API."""
        digest = await bundles.publish(self.api.admin, name, version)
        return ModelRef(name=name, version=version, digest=digest)

    async def kept(self, *, after_s: float = 0.0, tenant: str = "default") -> None:
        """Sign what is to be signed when `after_s` from now have passed."""
        async with write(self.api.engine) as connection:
            await tenants.create(connection, tenant, now=time.time())
            await self.repository.keep(connection, tenant, now=time.time() + after_s)

    async def rotated(self, *roles: str) -> None:
        """New keys, and the old ones gone."""
        async with write(self.api.engine) as connection:
            await self.repository.rotate(connection, "default", roles, now=time.time())
        async with read(self.api.engine) as connection:
            await self.repository.tidy(connection, "default")

    async def files(self, tenant: str = "default") -> dict[str, bytes]:
        """Everything a device can ask for now: what somebody on the way may keep and give out later."""
        names = (
            [f"{role}.json" for role in ROLES] + [f"{n}.{role}.json" for role in ROLES for n in range(1, 40)] + [PIN]
        )
        async with read(self.api.engine) as connection:
            found = {name: await self.repository.file(connection, tenant, name) for name in names}
        return {name: data for name, data in found.items() if data is not None}

    async def root_version(self) -> int:
        return root_of((await self.files())["root.json"]).signed.version

    async def device(self, name: str = "till", *, with_root: bool = True) -> Device:
        """A device that enrolled; without its root, it is one from before there were any."""
        made = await self.api.admin("POST", "/api/v1/devices", {"device": name})
        state = self._folder / name
        token = made.json["enrol_token"]
        wanted = Enrolment(url=self.api.url, token=token, hardware=HARDWARE, agent_version="1")
        identity = await enrol_once(state, wanted, http=self._http)
        if not with_root:
            own = msgspec.structs.replace(identity.own, tuf_root=None)
            identity = msgspec.structs.replace(identity, enrolment=own)
        return Device(state, identity, self._http, self.api.url)


@asynccontextmanager
async def world(url: str, folder: Path) -> AsyncIterator[World]:
    async with running(url, folder) as api, aiohttp.ClientSession() as http:
        yield World(api, folder, http)


def told(url: str, folder: Path, story: Callable[[World], Awaitable[None]]) -> None:
    """Run `story` in a world of its own, within a minute."""

    async def run() -> None:
        async with asyncio.timeout(60), world(url, folder) as it:
            await story(it)

    asyncio.run(run())
