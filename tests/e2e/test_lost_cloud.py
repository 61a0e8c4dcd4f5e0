"""A cloud that dies, or never answers, while a device hands it a part of its load: whatever the device could answer is answered."""

import asyncio
from collections import Counter
from typing import NamedTuple

import pytest

from bench.slow_link import SlowLink
from cloud_core.demo.fleet import is_converged
from shared.protocol.topics import Header
from tests.e2e.scene import TEXT, Scene, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

MODEL = "sentiment-zh"
CALLERS, TEXTS = 4, 32
DEADLINE_MS = 8000
POLICY = {"mode": "fastest", "deadline_ms": DEADLINE_MS, "hedge_after_ms": 100}
EDGE = "edge-1"


class LinkedScene(Scene):
    """One edge; its way to the gateway leads through a relay of ours."""

    def __init__(self, folder) -> None:
        super().__init__(folder, "amqtt")
        self.link = SlowLink(round_trip=0.004, upstream=self.platform.ports.gateway)

    async def start(self) -> None:
        await self.link.__aenter__()
        self.platform.set_cloud(public_gateway_url=f"http://127.0.0.1:{self.link.port}")
        await self.start_cloud()
        made = await self.fleet.call("POST", "/devices", {"device": EDGE, "groups": ["shops"]})
        await self.platform.start_edge(EDGE, token=made["enrol_token"])
        await self.fleet.call("PUT", "/policies/near", POLICY)
        assignment = {"models": [{"name": MODEL, "version": "1.0.0"}], "policy": "near"}
        await self.fleet.call("PUT", "/assignments/shops", assignment)
        await self.fleet.wait(lambda fleet: is_converged(fleet[EDGE]), seconds=90, what="convergence")
        await self.gateway_answers()

    async def _close(self) -> None:
        await self.link.__aexit__(None, None, None)
        await super()._close()

    async def why(self, id: str) -> dict:
        async with self.session.get(f"{self.platform.edge_url(EDGE)}/v1/why/{id}") as answer:
            return await answer.json()


class Answer(NamedTuple):
    id: str
    status: int
    where: str
    why: str
    hedged: bool


class Load:
    """Callers that ask one batch after the other, until they are told to end."""

    def __init__(self, scene: LinkedScene, name: str) -> None:
        self.answers: list[Answer] = []
        self._scene = scene
        self._name = name
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []
        self._count = 0

    def begin(self) -> None:
        self._tasks = [asyncio.create_task(self._caller()) for _ in range(CALLERS)]

    async def until(self, holds, what: str) -> None:
        await self._scene.until(lambda: holds() or any(task.done() for task in self._tasks), what)

    async def end(self) -> None:
        self._ending = True
        await asyncio.gather(*self._tasks)

    def wheres(self, since: int) -> Counter[str]:
        return Counter(answer.where for answer in self.answers[since:])

    def whys(self, since: int) -> Counter[str]:
        return Counter(answer.why for answer in self.answers[since:])

    async def _caller(self) -> None:
        url = f"{self._scene.platform.edge_url(EDGE)}/batch_predict"
        body = {"model": MODEL, "input_texts": [TEXT] * TEXTS}
        while not self._ending:
            self._count += 1
            name = f"{self._name}-{self._count}"
            async with self._scene.session.post(url, json=body, headers={Header.REQUEST_ID: name}) as answer:
                await answer.read()
                said = answer.headers
                hedged = Header.HEDGED in said
                where, why = said.get(Header.WHERE, ""), said.get(Header.WHY, "")
                self.answers.append(Answer(name, answer.status, where, why, hedged))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    made = LinkedScene(tmp_path_factory.mktemp("lost-cloud"))
    yield from started(made)


async def both_answer(load: Load, count: int) -> None:
    since = len(load.answers)
    await load.until(lambda: min(load.wheres(since)["cloud"], load.wheres(since)["local"]) >= count, "answers of both")


def test_a_cloud_that_accepts_and_never_answers(scene):
    async def story():
        load = Load(scene, "hole")
        load.begin()
        await both_answer(load, 20)
        scene.link.swallows = True
        since = len(load.answers)
        await load.until(lambda: load.whys(since)["cloud-unreachable"] >= 20, "a breaker that is open")
        await load.end()
        scene.link.swallows = False
        assert {answer.status for answer in load.answers} == {200}
        stories = [(answer, await scene.why(answer.id)) for answer in load.answers[since:]]
        for answer, told in stories:
            attempts = {each["where"]: each for each in told["attempts"]}
            assert (told["outcome"], told["where"]) == ("ok", answer.where)
            assert answer.hedged == any(each["reason"] == "hedged" for each in attempts.values())
            if answer.where == "local" and "cloud" in attempts:
                assert attempts["cloud"]["outcome"] in ("cancelled", "deadline-missed")
                assert {attempts["cloud"]["reason"], attempts["local"]["reason"]} & {"hedged", "cloud-failed"}
        assert any(answer.hedged and answer.where == "local" for answer, _ in stories)

    scene.run(story())


def test_a_cloud_that_is_killed(scene):
    async def story():
        load = Load(scene, "killed")
        load.begin()
        await both_answer(load, 20)
        await scene.platform.cloud.kill()
        since = len(load.answers)
        await load.until(lambda: load.whys(since)["cloud-unreachable"] >= 20, "a breaker that is open")
        await load.end()
        assert {answer.status for answer in load.answers} == {200}

    scene.run(story())
