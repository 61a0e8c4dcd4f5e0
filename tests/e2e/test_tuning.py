"""An idle device measures how its model runs best, says so, and another of its kind is told instead of measuring again."""

import json

import pytest

from tests.e2e.scene import TEXT, Scene, started

pytestmark = pytest.mark.slow

QUIET = {"EDGE_AGENT_TUNE_AFTER_IDLE_S": "0.5", "EDGE_AGENT_TUNE_MAX_LOAD": "1.0", "EDGE_AGENT_TUNE_SECONDS": "5"}
MODEL = "sentiment-zh@1.0.0"


class TuningScene(Scene):
    """One edge in the group from the beginning, another that comes when the fleet has been told."""

    async def start(self) -> None:
        await self.start_cloud()
        await self.join("edge-1", QUIET)
        await self.fleetctl("groups", "assign", "shops", "--model", MODEL)

    async def join(self, name: str, settings: dict[str, str]) -> None:
        made = await self.fleet.call("POST", "/devices", {"device": name, "groups": ["shops"]})
        await self.platform.start_edge(name, token=made["enrol_token"], settings=settings)

    async def health(self, name: str) -> dict:
        async with self.session.get(f"{self.platform.edge_url(name)}/health") as answer:
            return await answer.json()

    async def predict(self, name: str) -> None:
        body = {"model": "sentiment-zh", "text": TEXT}
        async with self.session.post(f"{self.platform.edge_url(name)}/predict", json=body) as answer:
            assert answer.status == 200, await answer.text()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    made = TuningScene(tmp_path_factory.mktemp("tuning"), "amqtt")
    yield from started(made)


def test_a_device_measures_and_the_fleet_is_told(scene):
    async def story():
        def measured(fleet):
            return bool((fleet["edge-1"]["reported"] or {}).get("tuned"))

        fleet = await scene.fleet.wait(measured, seconds=120, what="a measurement")
        (tuned,) = fleet["edge-1"]["reported"]["tuned"]
        assert tuned["variant"] == "cpu-int8"
        hardware = fleet["edge-1"]["hardware"]["hardware_class"]
        assert f"{MODEL} cpu-int8, " in await scene.fleetctl("devices", "show", "edge-1")
        await scene.predict("edge-1")
        found = (await scene.health("edge-1"))["tuning"]
        assert [each["name"] for each in found["found"]] == ["sentiment-zh"]
        assert found["models"][0]["arrangement"] == tuned["arrangement"]

        said = json.loads(await scene.fleetctl("groups", "assign", "shops", "--model", MODEL, "--tuned", "--json"))
        assert said["models"][0]["tuned"] == {hardware: {"variant": "cpu-int8", "arrangement": tuned["arrangement"]}}
        await scene.join("edge-2", QUIET)
        await scene.converged()
        await scene.predict("edge-2")
        other = (await scene.health("edge-2"))["tuning"]
        assert [(each["source"], each["arrangement"]) for each in other["models"]] == [("told", tuned["arrangement"])]
        assert other["found"] == []
        # Nothing was loaded again for it where it ran already.
        first = (await scene.health("edge-1"))["tuning"]["models"][0]
        assert (first["source"], first["arrangement"]) == ("told", tuned["arrangement"])

    scene.run(story())
