"""One control plane and one agent, real processes, that see the whole corpus; and a control plane's rows written behind its back."""

import asyncio
import io
import os
import time

import aiohttp
import msgspec

from cloud_core.demo import fleet as demo
from cloud_core.demo.platform import Platform, choose_ports, wait_http
from cloud_core.models.publish import build_bundle
from cloud_core.models.shipped import shipped_models
from cloud_core.store.chunk_stores import open_chunks
from cloud_core.store.database import open_database, write
from cloud_core.store.publication import prepare, publish
from shared.bundle.store import ChunkStore
from tests.hostile.corpus import Bundle

PASSWORD = "a-password-for-tests"
EDGE = "edge-1"
GOOD = "sentiment-zh"
SECONDS = 10
"""What a trial may take, in both: a good one takes one or two where the machine is busy."""
MEMORY = 2 << 30


class Fleet:
    def __init__(self, folder):
        self.folder = folder
        ports, _ = choose_ports(1, usual=False)
        self.platform = Platform(folder, ports, environment=os.environ, admin_password=PASSWORD)
        # No replica: it would load what is written behind the gate's back, which is what the gate is for.
        self.platform.set_cloud(replicas="0", trial_seconds=str(SECONDS), trial_memory_bytes=str(MEMORY))
        self._loop = asyncio.new_event_loop()

    def run(self, work):
        return self._loop.run_until_complete(work)

    async def start(self):
        self.session = aiohttp.ClientSession()
        self.rest = demo.Fleet(self.session, self.platform.api)
        await self.platform.cloud.start()
        await wait_http(self.session, f"{self.platform.api}/ready", seconds=90)
        await self.rest.login(PASSWORD)
        model = next(path for path in shipped_models() if path.name == GOOD)
        await self.fleetctl("models", "publish", str(model))
        await self.rest.call("POST", "/groups", {"name": "shops"})
        made = await self.rest.call("POST", "/devices", {"device": EDGE, "groups": ["shops"]})
        settings = {"EDGE_AGENT_TRIAL_SECONDS": str(SECONDS), "EDGE_AGENT_TRIAL_MEMORY_BYTES": str(MEMORY)}
        await self.platform.start_edge(EDGE, token=made["enrol_token"], settings=settings)
        await self.rest.call("PUT", "/policies/near", {"mode": "local-only", "deadline_ms": 10_000})
        await self.assign()
        await self.rest.wait(lambda devices: demo.is_converged(devices[EDGE]), seconds=90, what="convergence")
        self.pids = self.pids_now()

    def pids_now(self):
        cloud = self.platform.children_of_cloud()
        return {"agent": self.platform.edges[EDGE].pid, "api": cloud["api"], "loops": cloud["loops"]}

    async def fleetctl(self, *arguments):
        return await demo.fleetctl(
            *arguments, url=self.platform.api, token=self.rest.token, environment=os.environ, folder=self.folder
        )

    async def publish(self, bundle: Bundle, name: str):
        """As any client of the REST API: chunks, then the manifest. Status and problem document."""
        headers = {"Authorization": f"Bearer {self.rest.token}"}
        for digest, data in bundle.pieces().items():
            url = f"{self.platform.api}/api/v1/chunks/{digest}"
            async with self.session.put(url, data=io.BytesIO(data), headers=headers) as answer:
                assert answer.status == 201, await answer.text()
        url = f"{self.platform.api}/api/v1/models/{name}/versions"
        headers["Content-Type"] = "application/json"
        async with self.session.post(url, data=io.BytesIO(bundle.manifest), headers=headers) as answer:
            return answer.status, await answer.json()

    async def versions(self, name):
        url = f"{self.platform.api}/api/v1/models/{name}/versions"
        async with self.session.get(url, headers={"Authorization": f"Bearer {self.rest.token}"}) as answer:
            return [] if answer.status == 404 else (await answer.json())["items"]

    async def smuggle(self, bundle: Bundle):
        """Write a version into the registry as only a control plane that was taken over would: no gate sees it."""
        store = open_chunks("folder", self.folder / "cloud" / "artifacts")("default")
        for digest, data in bundle.pieces().items():
            await asyncio.to_thread(store.put, digest, data)
        engine = open_database(f"sqlite+aiosqlite:///{self.folder / 'tideline.db'}")
        try:
            async with write(engine) as connection:
                await publish(
                    connection, "default", prepare(bundle.manifest), store, published_by="nobody", now=time.time()
                )
        finally:
            await engine.dispose()

    async def assign(self, *more: str):
        models = [{"name": name, "version": "1.0.0"} for name in (GOOD, *more)]
        await self.rest.call("PUT", "/assignments/shops", {"models": models, "policy": "near"})

    async def reported_failure(self, name: str):
        """What the agent reports of a model once it has given it up."""
        found = {}

        def gave_up(devices):
            report = devices[EDGE].get("reported") or {}
            mine = [one for one in report.get("models", ()) if one["name"] == name]
            if report.get("convergence") == "failed" and mine:
                found.update(mine[0], isolation=report["isolation"])
            return bool(found)

        await self.rest.wait(gave_up, seconds=120, what=f"the report that {name} failed")
        return found

    async def unharmed(self):
        """The same processes as at the start, and the good model answers on the device."""
        url = f"{self.platform.edge_url(EDGE)}/predict"
        async with self.session.post(url, json={"model": GOOD, "text": "很好"}) as answer:
            body = await answer.json()
            assert answer.status == 200, body
            assert body["where"] == "local"
        await wait_http(self.session, f"{self.platform.api}/ready", seconds=30)
        assert self.pids_now() == self.pids

    async def health(self, url):
        async with self.session.get(f"{url}/health") as answer:
            return await answer.json()

    def good_bundle(self):
        store = ChunkStore(self.folder / "good")
        model = next(path for path in shipped_models() if path.name == GOOD)
        manifest, data = build_bundle(model, store)
        files = {entry.path: b"".join(store.get(chunk.digest) for chunk in entry.chunks) for entry in manifest.files}
        return Bundle(data, files)

    async def _close(self):
        await self.platform.stop()
        await self.session.close()

    def close(self):
        try:
            self.run(self._close())
        finally:
            self._loop.close()

    def logs(self):
        children = (self.platform.cloud, *self.platform.edges.values())
        return "\n".join(f"--- {child.name}\n{child.tail(40)}" for child in children)


def edited(bundle: Bundle, **changes: object) -> Bundle:
    document = msgspec.json.decode(bundle.manifest)
    document.update(changes)
    return Bundle(msgspec.json.encode(document, order="sorted"), bundle.files)
