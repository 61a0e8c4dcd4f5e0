"""Whoever takes over the broker, the generation key with it, or the artifact server cannot change what a device runs.

A whole agent (real record, store, fetcher, convergence; only models' programs are scripted) under a real repository.
"""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cloud_core.store import models, versions
from cloud_core.store.database import write
from shared.bundle.install import folder_name
from shared.protocol.errors import TidelineError
from shared.protocol.reported import Convergence
from shared.protocol.trust import TrustState
from tests.edge_agent.control.device import Agent
from tests.edge_agent.control.device_api import DeviceApi, device_api
from tests.edge_agent.control.generations import generation, ref, signed
from tests.edge_agent.control.scene import (
    BYTES,
    NER,
    NER_DATA,
    NEW,
    NEW_DATA,
    OLD,
    OLD_DATA,
    ONE,
    TWO,
    applied,
    failed,
)
from tests.scenarios.trust.world import DAY_S, Device, World, told

Start = Callable[[], Agent]
Story = Callable[[World, Device, Start, DeviceApi], Awaitable[None]]


async def _published(world: World, name: str, version: str, digest: str, manifest: bytes) -> None:
    async with write(world.api.engine) as connection:
        await models.create(connection, "default", name, description="", now=time.time())
        assert await versions.publish(
            connection, "default", model=name, version=version, digest=digest, manifest=manifest.decode(),
            published_by="test", now=time.time(),
        )  # fmt: skip
        await world.repository.keep(connection, "default", now=time.time())


def _on_a_device_that_runs_one(url: str, folder: Path, story: Story) -> None:
    async def begin(world: World) -> None:
        await _published(world, "sentiment-zh", "1.0.0", OLD, OLD_DATA)
        await _published(world, "ner-zh", "1.0.0", NER, NER_DATA)
        device = await world.device("edge-1")
        async with device_api() as (api, http):
            api.bytes = dict(BYTES)

            def start() -> Agent:
                return Agent(folder / "agent", api, http, check=device.client.check)

            async with start().running() as agent:
                await agent.converger.accept(signed(ONE))
                await agent.until(applied(ONE))
            await story(world, device, start, api)

    told(url, folder, begin)


def test_a_generation_of_unpublished_versions(sqlite_url: str, tmp_path: Path) -> None:
    """Its signature is good, the artifact server has everything it names: nothing of it is even fetched."""

    async def story(world: World, device: Device, start: Start, api: DeviceApi) -> None:
        async with start().running() as agent:
            await agent.converger.accept(signed(TWO))
            await agent.until(lambda report: "not among the signed targets" in (report.error or ""))
            assert agent.host.active == {"sentiment-zh": "1.0.0", "ner-zh": "1.0.0"}
            assert agent.report.applied == ONE.order
            assert NEW not in api.asked
            # Once somebody who may has published it, the device gets there by itself.
            await _published(world, "sentiment-zh", "1.1.0", NEW, NEW_DATA)
            await agent.until(applied(TWO))

    _on_a_device_that_runs_one(sqlite_url, tmp_path, story)


def test_a_generation_that_names_another_manifest(sqlite_url: str, tmp_path: Path) -> None:
    async def story(world: World, device: Device, start: Start, api: DeviceApi) -> None:
        await _published(world, "sentiment-zh", "1.1.0", "f" * 64, b"{}")
        async with start().running() as agent:
            await agent.converger.accept(signed(TWO))
            await agent.until(failed)
            assert "another manifest" in (agent.report.error or "")
            assert agent.host.active == {"sentiment-zh": "1.0.0", "ner-zh": "1.0.0"}
            assert NEW not in api.asked

    _on_a_device_that_runs_one(sqlite_url, tmp_path, story)


def test_an_artifact_server_that_gives_other_bytes(sqlite_url: str, tmp_path: Path) -> None:
    async def story(world: World, device: Device, start: Start, api: DeviceApi) -> None:
        await _published(world, "sentiment-zh", "1.1.0", NEW, NEW_DATA)
        api.bytes = {digest: bytes(reversed(data)) for digest, data in BYTES.items()}
        async with start().running() as agent:
            await agent.converger.accept(signed(TWO))
            await agent.until(failed)
            assert agent.host.active == {"sentiment-zh": "1.0.0", "ner-zh": "1.0.0"}
            assert agent.report.applied == ONE.order

    _on_a_device_that_runs_one(sqlite_url, tmp_path, story)


@pytest.mark.parametrize("trouble", ["stale", "refused", "gone"])
def test_no_trouble_with_metadata_stops_what_runs(sqlite_url: str, tmp_path: Path, trouble: str) -> None:
    """Not through a restart, and not where a bundle rotted and has to be put together again."""

    async def story(world: World, device: Device, start: Start, api: DeviceApi) -> None:
        if trouble == "stale":
            async with write(world.api.engine) as connection:
                # As if nobody had signed for two days: versions go on, so that only the date is wrong.
                await world.repository.rotate(connection, "default", ["timestamp"], now=time.time() - 2 * DAY_S)
        elif trouble == "refused":
            await world.kept(tenant="other")
            device.between.replaced = await world.files("other")
        else:
            device.between.missing = set(await world.files())
        with pytest.raises(TidelineError):
            await device.client.refresh()
        assert device.client.report().state is {
            "stale": TrustState.STALE, "refused": TrustState.REFUSED, "gone": TrustState.OFFLINE,
        }[trouble]  # fmt: skip
        shutil.rmtree(tmp_path / "agent" / "bundles" / folder_name(OLD, "cpu-int8"))
        async with start().running() as agent:
            assert agent.host.active == {"sentiment-zh": "1.0.0", "ner-zh": "1.0.0"}
            assert agent.report.applied == ONE.order
            again = generation(3, ref(OLD), ref(NER, "ner-zh"))
            await agent.converger.accept(signed(again))
            await agent.until(applied(again))  # a new policy over what is here needs nobody
            await agent.converger.accept(signed(generation(4, ref(NEW, version="1.1.0"))))
            await agent.until(lambda report: "cannot be verified" in (report.error or ""))
            assert agent.report.convergence is Convergence.CONVERGING
            assert agent.host.active == {"sentiment-zh": "1.0.0", "ner-zh": "1.0.0"}
            await asyncio.sleep(0)
            assert NEW not in api.asked

    _on_a_device_that_runs_one(sqlite_url, tmp_path, story)
