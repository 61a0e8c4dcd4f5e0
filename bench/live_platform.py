"""A whole platform for benchmarks: one cloud with one replica, one device, each computing under its own quota, a long way between.

Only what computes is held: the edge agent, and the replica's process. The gateway, the other roles, the relay and the load share
what is left of the machine, and how much of it they took is the caller's to report.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from bench.quota import Quota
from bench.slow_link import SlowLink
from cloud_core.demo.fleet import Device, Fleet, applied, fleetctl, is_converged
from cloud_core.demo.platform import HOST, Platform, choose_ports, wait_http
from shared.bundle.manifest import MANIFEST_FILE, canonical, parse_manifest

EDGE, GROUP, REPLICA, POLICY = "edge-1", "bench", "replica-0", "bench"
PATIENCE_S = 120.0


class LivePlatform:
    """Started by `async with`; everything it started has ended when the block has."""

    def __init__(self, folder: Path, link: SlowLink, edge: Quota, replica: Quota) -> None:
        """`link` is where the device finds its gateway: its upstream is set here, and it must listen already."""
        ports, _ = choose_ports(1, usual=False)
        self.edge_port, self.gateway_port = ports.edges[0], ports.gateway
        self.edge, self.replica = edge, replica
        link.upstream = ports.gateway
        self._folder = folder
        self._password = secrets.token_urlsafe(9)
        self._platform = Platform(folder, ports, environment=os.environ, admin_password=self._password)
        self._platform.set_cloud(public_gateway_url=f"http://{HOST}:{link.port}")
        self._end = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._session = await self._end.enter_async_context(aiohttp.ClientSession())
        self.fleet = Fleet(self._session, self._platform.api)
        self._end.push_async_callback(self._platform.stop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._end.aclose()

    async def serve(self, bundle: Path, model: str, policy: Mapping[str, object]) -> None:
        """Start everything, and have the model in both places under `policy`."""
        await self.start_cloud()
        await self.fleetctl("models", "publish", str(bundle))
        await self.fleet.call("POST", "/groups", {"name": GROUP})
        made = await self.fleet.call("POST", "/devices", {"device": EDGE, "groups": [GROUP]})
        child = await self._platform.start_edge(EDGE, token=made["enrol_token"])
        await self.fleet.call("PUT", f"/policies/{POLICY}", dict(policy))
        assignment = {"models": [{"name": model, "version": "1.0.0"}], "policy": POLICY}
        await self.fleet.call("PUT", f"/assignments/{GROUP}", assignment)
        await self.fleet.wait(_converged, seconds=PATIENCE_S, what="convergence")
        await self.replica_ready(model)
        assert child.pid is not None
        self.edge.hold(child.pid)

    async def follow(self, policy: Mapping[str, object]) -> None:
        """A new policy, and the wait until the device is under it."""
        before = applied((await self.fleet.devices())[EDGE])
        await self.fleet.call("PUT", f"/policies/{POLICY}", dict(policy))
        await self.fleet.wait(
            lambda fleet: _converged(fleet) and applied(fleet[EDGE]) != before, seconds=PATIENCE_S, what="the policy"
        )

    async def start_cloud(self) -> None:
        """Start the cloud, and log in."""
        await self._platform.cloud.start()
        for url in (f"{self._platform.api}/ready", f"{self._platform.gateway}/live"):
            await wait_http(self._session, url, seconds=PATIENCE_S)
        await self.fleet.login(self._password)

    async def replica_ready(self, model: str) -> None:
        """Wait until the gateway says that the model is ready, and hold the replica where it is."""
        url, headers = (
            f"{self._platform.gateway}/v2/models/{model}/ready",
            {"Authorization": f"Bearer {self.fleet.token}"},
        )
        async with asyncio.timeout(PATIENCE_S):
            while True:
                async with self._session.get(url, headers=headers) as answer:
                    if answer.status == 200:
                        break
                await asyncio.sleep(0.1)
        self.replica.hold(self._platform.children_of_cloud()[REPLICA])

    async def kill_cloud(self) -> None:
        """kill -9 everything of the cloud, the supervisor first: nobody starts anything again, or says goodbye."""
        children = self._platform.children_of_cloud().values()
        await self._platform.cloud.kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def fleetctl(self, *arguments: str) -> str:
        """Run `fleetctl` as a person would."""
        return await fleetctl(
            *arguments, url=self._platform.api, token=self.fleet.token, environment=os.environ, folder=self._folder
        )

    async def counted(self) -> dict[str, float]:
        """What the device counted so far: attempts by where they were made and how they ended, as `cloud/ok`, decisions by where and
        why, as `cloud for mode`, and `hedges`.
        """
        async with self._session.get(f"http://{HOST}:{self.edge_port}/metrics") as answer:
            text = await answer.text()
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "tideline_requests_total":
                    key = f"{sample.labels['where']}/{sample.labels['outcome']}"
                    found[key] = found.get(key, 0.0) + sample.value
                elif sample.name == "tideline_route_total":
                    key = f"{sample.labels['where']} for {sample.labels['reason']}"
                    found[key] = found.get(key, 0.0) + sample.value
                elif sample.name == "tideline_hedges_total":
                    found["hedges"] = found.get("hedges", 0.0) + sample.value
        return found

    def logs(self) -> str:
        """The ends of both programs' logs."""
        return "\n".join(each.tail() for each in (self._platform.cloud, *self._platform.edges.values()))


def only(variant: str, bundle: Path, folder: Path) -> Path:
    """The bundle with one variant alone, in `folder`: both places compute the same, and there is less to carry."""
    manifest = parse_manifest((bundle / MANIFEST_FILE).read_bytes())
    variants = tuple(each for each in manifest.variants if each.name == variant)
    wanted = {manifest.processing.tokenizer, *(name for each in variants for name in each.files)}
    files = tuple(each for each in manifest.files if each.path in wanted)
    folder.mkdir()
    for each in files:
        shutil.copyfile(bundle / each.path, folder / each.path)
    made = msgspec.structs.replace(manifest, variants=variants, files=files)
    (folder / MANIFEST_FILE).write_bytes(canonical(made))
    return folder


def _converged(fleet: Mapping[str, Device]) -> bool:
    return EDGE in fleet and is_converged(fleet[EDGE])
