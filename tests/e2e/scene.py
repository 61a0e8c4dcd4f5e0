"""A whole platform of real processes for tests: one cloud, two edges, one broker of either kind."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from cloud_core.broker import mosquitto
from cloud_core.demo.fleet import Fleet, applied, fleetctl, is_converged
from cloud_core.demo.platform import HOST, ONE_CORE, ONLY_MQTT, Platform, choose_ports, wait_http
from cloud_core.keys import load_or_create
from cloud_core.models.shipped import shipped_models
from shared.protocol.topics import Header

PASSWORD = "a-password-for-tests"
EDGES = ("edge-1", "edge-2")
"""The second has only MQTT."""
TEXT = "这家店的牛肉面汤头很鲜，分量也足，下次还会再来。"


class Mosquitto:
    """The real broker, with the files that `loops` keeps for it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.pid_file = folder / "mosquitto.pid"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self, service_password: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        mosquitto.provision(self.folder, [], service_password=service_password)
        mosquitto.write_conf(self.folder, host=HOST, port=self._port, pid_file=str(self.pid_file))
        # Started as root it would give up root, and could no longer read what is ours alone.
        with (self.folder / mosquitto.CONF).open("a") as conf:
            conf.write("\nuser root\n")

    def start(self) -> None:
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "mosquitto is not installed"
        log = (self.folder / "mosquitto.log").open("ab")
        self._process = subprocess.Popen([program, "-c", self.folder / mosquitto.CONF], stdout=log, stderr=log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def started(made):
    """For a fixture: `made` from its start to its end; what its processes logged is printed where it does not come up."""
    try:
        made.run(made.start())
        yield made
    except BaseException:
        print(made.logs())
        raise
    finally:
        made.close()


class Scene:
    """The platform, its REST client, and the one event loop they live on."""

    def __init__(self, folder: Path, broker: str, *, database_url: str | None = None) -> None:
        self.folder = folder
        self.broker = broker
        ports, _ = choose_ports(len(EDGES), usual=False)
        embedded = broker == "amqtt"
        self.platform = Platform(
            folder, ports, environment=os.environ, admin_password=PASSWORD, embedded_broker=embedded
        )
        if database_url is not None:
            self.platform.set_cloud(database_url=database_url)
        self.mosquitto: Mosquitto | None = None
        if not embedded:
            self.mosquitto = Mosquitto(folder / "mosquitto", ports.mqtt)
            self.platform.set_cloud(
                mosquitto_dir=str(self.mosquitto.folder), mosquitto_pid_file=str(self.mosquitto.pid_file)
            )
        # A thread of its own: Playwright's synchronous face has a running loop in the test's thread.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scene", daemon=True)
        self._thread.start()
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def start_cloud(self) -> None:
        """The cloud, a published model, and a group without devices."""
        self._session = aiohttp.ClientSession()
        self.fleet = Fleet(self._session, self.platform.api)
        if self.mosquitto is not None:
            self.mosquitto.prepare(load_or_create(self.folder / "cloud" / "secrets").broker_password)
            self.mosquitto.start()
        await self.platform.cloud.start()
        await self.up()
        model = next(path for path in shipped_models() if path.name == "sentiment-zh")
        await self.fleetctl("models", "publish", str(model))
        await self.fleet.call("POST", "/groups", {"name": "shops"})

    async def start(self) -> None:
        await self.start_cloud()
        for name in EDGES:
            made = await self.fleet.call("POST", "/devices", {"device": name, "groups": ["shops"]})
            settings = ONE_CORE | (ONLY_MQTT if name == EDGES[1] else {})
            await self.platform.start_edge(name, token=made["enrol_token"], settings=settings)
        policy = {"mode": "local-first", "deadline_ms": 1000, "exercise_share": 0}
        await self.fleet.call("PUT", "/policies/near", policy)
        assignment = {"models": [{"name": "sentiment-zh", "version": "1.0.0"}], "policy": "near"}
        await self.fleet.call("PUT", "/assignments/shops", assignment)
        await self.converged()

    async def up(self) -> None:
        for url in (f"{self.platform.api}/ready", f"{self.platform.gateway}/live"):
            await wait_http(self.session, url, seconds=90)
        await self.fleet.login(PASSWORD)

    async def fleetctl(self, *arguments: str) -> str:
        return await fleetctl(
            *arguments, url=self.platform.api, token=self.fleet.token, environment=os.environ, folder=self.folder
        )

    async def converged(self, *, newer_than: dict[str, tuple[int, int] | None] | None = None):
        def holds(fleet) -> bool:
            return all(
                is_converged(fleet[name]) and (newer_than is None or applied(fleet[name]) != newer_than[name])
                for name in EDGES
            )

        return await self.fleet.wait(holds, seconds=90, what="convergence")

    async def change_policy(self, deadline_ms: float) -> None:
        """A new generation for everybody, and the wait until it answers everywhere."""
        before = {name: applied(device) for name, device in (await self.fleet.devices()).items()}
        policy = {"mode": "local-first", "deadline_ms": deadline_ms, "exercise_share": 0}
        await self.fleet.call("PUT", "/policies/near", policy)
        await self.converged(newer_than=before)

    async def api_counter(self, name: str) -> float:
        async with self.session.get(f"{self.platform.api}/metrics") as answer:
            found = re.search(rf"^{name} (\S+)$", await answer.text(), re.MULTILINE)
        assert found is not None, f"the API has no {name}"
        return float(found.group(1))

    async def edges_answer(self) -> None:
        for name in EDGES:
            url = f"{self.platform.edge_url(name)}/predict"
            async with self.session.post(url, json={"model": "sentiment-zh", "text": TEXT}) as answer:
                body = await answer.json()
                assert answer.status == 200, body
                assert body["where"] == "local"
                assert answer.headers[Header.WHERE] == "local"

    async def gateway_answers(self, seconds: float = 60) -> None:
        body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}]}
        url = f"{self.platform.gateway}/v2/models/sentiment-zh/infer"
        headers = {"Authorization": f"Bearer {self.fleet.token}"}
        said = ""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientError):
                async with self.session.post(url, json=body, headers=headers) as answer:
                    said = f"{answer.status} {await answer.text()}"
                    if answer.status == 200:
                        assert answer.headers[Header.WHERE] == "cloud"
                        return
            await asyncio.sleep(0.2)
        raise AssertionError(f"the gateway does not answer: {said}")

    async def kill_child(self, name: str) -> None:
        """kill -9 a child of the cloud; returns once the supervisor has replaced it."""
        before = self.platform.children_of_cloud()[name]
        os.kill(before, signal.SIGKILL)
        await self.until(lambda: self.platform.children_of_cloud().get(name, before) != before, f"a new {name}")

    async def until(self, holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"{what} did not happen"
            await asyncio.sleep(0.05)

    async def _close(self) -> None:
        await self.platform.stop()
        if self._session is not None:
            await self._session.close()

    def close(self) -> None:
        try:
            self.run(self._close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            if self.mosquitto is not None:
                self.mosquitto.kill()

    def logs(self) -> str:
        children = (self.platform.cloud, *self.platform.edges.values())
        return "\n".join(f"--- {child.name}\n{child.tail(40)}" for child in children)
