"""Two real agents: a second version is rolled out and converges; one that a device cannot run goes back by itself."""

import asyncio
import json

import msgspec
import pytest

from cloud_core.models.shipped import shipped_models
from shared.bundle.manifest import canonical, parse_manifest
from tests.e2e.scene import EDGES, Scene, started

pytestmark = pytest.mark.slow

MODEL = "sentiment-zh"
MEMORY = 1 << 30
"""What the agents may use; the third version says it needs twice that."""


class RolloutScene(Scene):
    """Agents that keep to less memory than their machine has."""

    async def start(self) -> None:
        await self.start_cloud()
        await self.fleet.call("PUT", "/assignments/shops", {"models": [{"name": MODEL, "version": "1.0.0"}]})
        for name in EDGES:
            made = await self.fleet.call("POST", "/devices", {"device": name, "groups": ["shops"]})
            settings = {"EDGE_AGENT_MEMORY_BYTES": str(MEMORY), "EDGE_AGENT_LANES": "1", "EDGE_AGENT_THREADS": "1"}
            await self.platform.start_edge(name, token=made["enrol_token"], settings=settings)
        await self.converged()

    async def publish(self, version: str, *, memory_bytes: int | None = None) -> None:
        """The shipped bundle under another version."""
        source = next(path for path in shipped_models() if path.name == MODEL)
        manifest = parse_manifest((source / "manifest.json").read_bytes())
        folder = self.folder / f"bundle-{version}"
        folder.mkdir()
        for file in manifest.files:
            (folder / file.path).write_bytes((source / file.path).read_bytes())
        variants = manifest.variants
        if memory_bytes is not None:
            variants = tuple(
                msgspec.structs.replace(
                    variant, requirements=msgspec.structs.replace(variant.requirements, memory_bytes=memory_bytes)
                )
                for variant in variants
            )
        made = msgspec.structs.replace(manifest, version=version, variants=variants)
        (folder / "manifest.json").write_bytes(canonical(made))
        await self.fleetctl("models", "publish", str(folder))

    async def versions(self) -> dict[str, list[str]]:
        """The active version of the model on each device, as it reports."""
        return {
            name: [each["version"] for each in device["reported"]["models"] if each["active"] and each["name"] == MODEL]
            for name, device in (await self.fleet.devices()).items()
        }


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    made = RolloutScene(tmp_path_factory.mktemp("rollouts"), "amqtt")
    yield from started(made)


def test_a_good_version_goes_through_and_a_bad_one_comes_back(scene):
    async def story():
        await scene.publish("1.1.0")
        plan = await scene.fleetctl("rollouts", "start", f"{MODEL}@1.1.0", "--to", "shops", "--dry-run")
        assert "2 devices" in plan
        assert (await scene.versions()) == {name: ["1.0.0"] for name in EDGES}

        said = await scene.fleetctl(
            "rollouts", "start", f"{MODEL}@1.1.0", "--to", "shops", "--strategy", "canary", "--wave", "1", "--wave",
            "100%", "--soak", "2", "--watch",
        )  # fmt: skip
        assert "succeeded (passed)" in said
        await scene.converged()
        assert (await scene.versions()) == {name: ["1.1.0"] for name in EDGES}
        (assigned,) = (await scene.fleet.call("GET", "/assignments/shops"))["models"]
        assert assigned["version"] == "1.1.0"
        await scene.edges_answer()

        await scene.publish("1.2.0", memory_bytes=2 * MEMORY)
        body = {"model": MODEL, "version": "1.2.0", "group": "shops", "soak_s": 2, "retries": 1, "backoff_s": 1}
        id_ = (await scene.fleet.call("POST", "/rollouts", body))["id"]
        ended = {"succeeded", "rolled_back", "paused"}

        async def state() -> str:
            return (await scene.fleet.call("GET", f"/rollouts/{id_}"))["state"]

        async with asyncio.timeout(90):
            while await state() not in ended:
                await asyncio.sleep(0.2)
        shown = json.loads(await scene.fleetctl("rollouts", "show", id_, "--json"))
        assert (shown["state"], shown["why"], shown["wave"]) == ("rolled_back", "device-errors", 0)
        (member,) = shown["members"]
        assert (member["state"], member["attempts"]) == ("failed", 2)
        assert "needs" in member["error"]
        assert shown["verdicts"][-1]["numbers"]["failed"] == 1
        assert "rolled_back" in await scene.fleetctl("rollouts", "list")
        assert "device-errors" in await scene.fleetctl("rollouts", "show", id_)
        await scene.converged()
        assert (await scene.versions()) == {name: ["1.1.0"] for name in EDGES}
        await scene.edges_answer()

    scene.run(story())
