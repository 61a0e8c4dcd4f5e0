"""kill -9 of every process in turn; each time the fleet converges to what was asked for afterwards."""

import asyncio
from pathlib import Path

import pytest

from cloud_core.demo.fleet import is_converged
from cloud_core.demo.platform import wait_http

CHILDREN = ("replica-0", "api", "gateway", "loops")


@pytest.fixture(scope="module")
def deadlines():
    """A new deadline for each change of policy, so that every change is one."""
    return iter(range(1001, 2000))


def test_the_edge_that_has_only_mqtt_got_its_model_over_it(scene):
    async def story():
        sent = await scene.api_counter("tideline_mqtt_content_bytes_total")
        device = (await scene.fleet.devices())["edge-2"]
        assert is_converged(device)
        # One variant of the shipped model, packed, its manifest and the metadata that vouches for it.
        assert sent > 100_000

    scene.run(story())


@pytest.mark.parametrize("child", CHILDREN)
def test_a_role_or_a_replica_is_killed(scene, deadlines, child):
    async def story():
        await scene.kill_child(child)
        await scene.edges_answer()
        await scene.up()
        await scene.change_policy(next(deadlines))
        await scene.gateway_answers()

    scene.run(story())


def test_the_broker_is_killed(scene, deadlines):
    async def story():
        if scene.mosquitto is None:
            await scene.kill_child("broker")
        else:
            scene.mosquitto.kill()
            await scene.edges_answer()
            scene.mosquitto.start()
        await scene.edges_answer()
        await scene.change_policy(next(deadlines))

    scene.run(story())


def test_an_agent_is_killed(scene, deadlines):
    async def story():
        edge = scene.platform.edges["edge-1"]
        await edge.kill()
        await scene.platform.start_edge("edge-1", token=None)
        await wait_http(scene.session, f"{scene.platform.edge_url('edge-1')}/ready", seconds=60)
        await scene.edges_answer()
        await scene.change_policy(next(deadlines))

    scene.run(story())


def test_the_supervisor_is_killed(scene, deadlines):
    async def story():
        children = scene.platform.children_of_cloud()
        await scene.platform.cloud.kill()

        def all_gone() -> bool:
            return not any(Path(f"/proc/{pid}").exists() for pid in children.values())

        await scene.until(all_gone, "the end of every child")
        await scene.edges_answer()
        await scene.platform.cloud.start()
        await scene.up()
        await scene.change_policy(next(deadlines))
        await scene.gateway_answers()

    scene.run(story())


def test_an_agent_starts_without_any_cloud_and_serves_what_it_holds(scene, deadlines):
    async def story():
        await scene.platform.edges["edge-2"].kill()
        await scene.platform.cloud.stop()
        await scene.platform.start_edge("edge-2", token=None)
        await wait_http(scene.session, f"{scene.platform.edge_url('edge-2')}/ready", seconds=60)
        await scene.edges_answer()
        await scene.platform.cloud.start()
        await scene.up()
        await scene.change_policy(next(deadlines))

    scene.run(story())


def test_everything_is_killed_at_once(scene, deadlines):
    async def story():
        edges = scene.platform.edges
        await asyncio.gather(scene.platform.cloud.kill(), *(edge.kill() for edge in edges.values()))
        await scene.platform.cloud.start()
        for name in edges:
            await scene.platform.start_edge(name, token=None)
        await scene.up()
        for name in edges:
            await wait_http(scene.session, f"{scene.platform.edge_url(name)}/ready", seconds=60)
        await scene.edges_answer()
        await scene.change_policy(next(deadlines))
        await scene.gateway_answers()

    scene.run(story())
