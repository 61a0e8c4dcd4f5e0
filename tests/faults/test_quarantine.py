"""A version that does not keep what it promises is tried twice, and never a third time."""

import asyncio
import contextlib

from tests.edge_agent.control.generations import generation, ref, signed
from tests.faults.activation import VERSIONS
from tests.faults.activation_faults import agent_in, ask, outcome_of, played, prepared
from tests.faults.one_fault import NEW


def test_a_digest_that_was_rolled_back_twice_is_not_tried_again_and_another_is(tmp_path):
    prepared(tmp_path / "agent")
    bad = ref(VERSIONS[NEW][2], version=f"1.{NEW}.0")

    async def work():
        went = []
        agent = agent_in(tmp_path / "agent")
        async with agent.running():
            asking = asyncio.create_task(ask(agent, "failing", set()))
            for number in (3, 4, 5):
                del agent.host.done[:]
                await agent.converger.accept(signed(generation(number, bad)))
                went.append(
                    (
                        await outcome_of(agent, number),
                        ("load", "sentiment-zh", "1.3.0", "cpu-int8", 2) in agent.host.done,
                    )
                )
            error = agent.report.error
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
            good = generation(6, ref(VERSIONS[1][2], version="1.1.0"))
            await agent.converger.accept(signed(good))
            went.append(await outcome_of(agent, 6))
        # A restart forgets nothing.
        async with agent_in(tmp_path / "agent").running() as again:
            await again.converger.accept(signed(generation(7, bad)))
            went.append(await outcome_of(again, 7))
        return went, error

    went, error = played(work())
    assert went == [("rolled-back", True), ("rolled-back", True), ("failed", False), "committed", "failed"]
    assert error.startswith("quarantined: sentiment-zh 1.3.0: ")
