"""Many deaths in a row, several at a time, in an order drawn from a seed: after each, the fleet converges and answers."""

import asyncio
import os
import random
import signal

import pytest

from cloud_core.demo.platform import wait_http

ROUNDS = 12


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_random_deaths(scene):
    draw = random.Random(20261121)

    async def kill(victim: str) -> None:
        if victim in scene.platform.edges:
            await scene.platform.edges[victim].kill()
            await scene.platform.start_edge(victim, token=None)
        elif victim == "supervisor":
            await scene.platform.cloud.kill()
            await scene.platform.cloud.start()
        elif victim == "mosquitto":
            scene.mosquitto.kill()
            scene.mosquitto.start()
        else:
            pid = scene.platform.children_of_cloud().get(victim)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)

    async def story():
        victims = ["edge-1", "edge-2", "supervisor", "api", "gateway", "loops", "replica-0"]
        victims.append("broker" if scene.mosquitto is None else "mosquitto")
        for number in range(ROUNDS):
            # The supervisor last: what it watched over dies with it.
            chosen = sorted(draw.sample(victims, draw.randint(1, 3)), key=lambda name: name == "supervisor")
            for victim in chosen:
                await kill(victim)
            await scene.up()
            await scene.change_policy(2000 + number)
            await asyncio.gather(
                *(
                    wait_http(scene.session, f"{scene.platform.edge_url(n)}/ready", seconds=60)
                    for n in scene.platform.edges
                )
            )
            await scene.edges_answer()
            await scene.gateway_answers()

    scene.run(story())
