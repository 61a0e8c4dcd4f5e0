"""Plays one activation with one fault in it, in virtual time, on real files and a real record; says what it went through.

A device runs 1.1.0 and has 1.0.0 before it on disk; then 1.2.0 comes. A killed process is one whose objects are left and whose files
are taken as they are at that moment; the next life begins with them and with nothing in memory, as after a real kill.
"""

import asyncio
import shutil
from itertools import groupby

import numpy as np
import structlog

from edge_agent.decide.probation import Terms
from shared.protocol.errors import Transient
from shared.serving.answer import Response, Tensors, Timing, Where
from tests.edge_agent.control.device import Agent
from tests.edge_agent.control.generations import signed
from tests.faults.activation import AGENT, ORDERS
from tests.faults.one_fault import NEW, Cloud, Fault, Killed
from tests.scenarios.virtual_time import VirtualClock, VirtualLoop

OLD = 2
LONGEST_S = 3 * 3600.0
"""Of virtual time: what has not ended by then waits for something."""
LIVES = 30
ASK_S = 5.0
BAD = ("failing", "not finite", "slow")
"""How the new version may answer, besides well."""
TERMS = Terms(shortest_s=60.0, longest_s=600.0, enough=10)


class Loop(VirtualLoop):
    """What is done in a thread is done at once: a thread's time cannot jump."""

    def run_in_executor(self, executor, work, *arguments):
        done = self.create_future()
        try:
            done.set_result(work(*arguments))
        except BaseException as error:
            done.set_exception(error)
        return done


def prepared(folder):
    """The device before: 1.1.0 answers, and 1.0.0 was before it."""

    async def run():
        async with agent_in(folder).running() as agent:
            for number in (1, OLD):
                await agent.converger.accept(signed(ORDERS[number]))
                assert await outcome_of(agent, number) == "committed"

    played(run())
    return folder


def play(base, folder, case):
    """(chain, outcome, which version answers, which ever answered) of one activation."""
    shutil.copytree(base, folder / AGENT)
    answers = case.kind if case.kind in BAD else "failing" if case.where.endswith("roll back") else "good"
    return played(_play(Fault(case, folder / AGENT), answers))


def played(work):
    """Run it in virtual time."""
    loop = Loop()
    try:
        with structlog.testing.capture_logs():
            return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def agent_in(folder):
    """An agent of what lies in `folder`, in virtual time."""
    cloud = Cloud()
    agent = Agent(folder, cloud, None, parallel=1, terms=TERMS, clock=VirtualClock(), source=cloud, draw=0.5)
    agent.cloud = cloud

    def well():
        cloud.broken, agent.tries.died, agent.host.broken = None, set(), set()
        cloud.before = lambda: asyncio.sleep(0)

    agent.well = well
    return agent


async def _play(fault, answers):
    answered = set()
    for _ in range(LIVES):
        agent = agent_in(fault.folder)
        fault.attach(agent)
        asker = None
        try:
            await agent.converger.start_from_disk()
            asker = asyncio.create_task(ask(agent, answers, answered))
            outcome = await _lived(agent, fault)
        except Killed:
            continue
        finally:
            if asker is not None:
                asker.cancel()
                await asyncio.wait({asker})
                if not asker.cancelled():
                    asker.result()
            agent.state.close()
        return _told(fault.chain), outcome, agent.host.active.get("sentiment-zh"), answered
    return _told(fault.chain), "never ends", None, answered


async def _lived(agent, fault):
    await asyncio.sleep(60)
    running, accepted = asyncio.create_task(agent.converger.run()), asyncio.create_task(_accepted(agent))
    try:
        outcome = await _ended(agent, running)
        if outcome is None:
            fault.on = False
            agent.well()
            fault.chain.append("MENDED")
            outcome = f"waits, then {await _ended(agent, running)}"
        return outcome
    finally:
        for task in (running, accepted):
            task.cancel()
        await asyncio.wait({running, accepted})


async def _accepted(agent):
    """The link delivers it again and again until it is taken."""
    while True:
        try:
            await agent.converger.accept(signed(ORDERS[NEW]))
        except Transient:
            await asyncio.sleep(10)
        else:
            return


async def _ended(agent, running):
    there = asyncio.create_task(outcome_of(agent))
    await asyncio.wait({there, running}, return_when=asyncio.FIRST_COMPLETED, timeout=LONGEST_S)
    if running.done():
        there.cancel()
        running.result()
    if there.done():
        return there.result()
    there.cancel()
    return None


async def outcome_of(agent, number=NEW):
    """What became of a generation, once that is known."""
    while True:
        report = agent.report
        if report.target == (1, number) and report.outcome not in (None, "probation"):
            return report.outcome.value
        agent.news.clear()
        await agent.news.wait()


async def ask(agent, answers, answered):
    """Somebody asks all the time; the version that is active must be there and ready each time."""
    while True:
        version = agent.host.active["sentiment-zh"]
        assert agent.host.loaded["sentiment-zh", version].state == "ready"
        answered.add(version)
        _answered(agent, version, answers if version == f"1.{NEW}.0" else "good")
        await asyncio.sleep(ASK_S)


def _answered(agent, version, how):
    value, compute = (float("nan") if how == "not finite" else 1.0), (1.0 if how == "slow" else 0.01)
    response = (
        None
        if how == "failing"
        else Response(
            id="r",
            model="sentiment-zh",
            version=version,
            variant="cpu-int8",
            digest="",
            task="tensor",
            results=(Tensors(outputs={"y": np.array([value])}),),
            where=Where.LOCAL,
            why="",
            timing=Timing(compute=compute),
        )
    )
    agent.evidence.asked("sentiment-zh", version, "corrupt" if response is None else "ok", response)


def _told(chain):
    """`fetch*2` is two in a row; `(load)*3` are three lives that went alike."""
    lives = [
        " ".join(_counted(life.split())) for life in " ".join(chain).replace("roll back", "roll-back").split("KILL")
    ]
    alike = ((life, len(tuple(same))) for life, same in groupby(lives))
    return " KILL ".join(life if count == 1 else f"({life})*{count}" for life, count in alike)


def _counted(words):
    for word, same in groupby(words):
        count = len(tuple(same))
        yield word if count == 1 else f"{word}*{count}" if count < 10 else f"{word}*"
