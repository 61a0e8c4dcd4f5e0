"""What is cut short: an agent's first generation, and an update that ends with the removal of the oldest one.

Every file operation goes one after the other, so that the same run has the same operations each time.
"""

import asyncio

import structlog

from tests.edge_agent.control.device import Agent
from tests.edge_agent.control.device_api import device_api
from tests.edge_agent.control.generations import generation, ref, signed
from tests.shared.bundle.bundles import bundle

VERSIONS = {number: bundle(version=f"1.{number}.0") for number in (1, 2, 3)}
ORDERS = {n: generation(n, ref(VERSIONS[n][2], version=f"1.{n}.0")) for n in VERSIONS}
SERVED = {}
for _, _data, _digest, _pieces in VERSIONS.values():
    SERVED |= {_digest: _data, **_pieces}
ACTIVE = {each.order: {"sentiment-zh": f"1.{n}.0"} for n, each in ORDERS.items()}
AGENT = "agent"


def applied(of):
    return lambda report: report.applied == of.order and report.convergence == "applied"


def with_cloud(work):
    """Run `work(start, api)`; `start(root)` makes an agent of what lies below `root`."""

    async def run():
        async with device_api() as (api, http):
            api.bytes = dict(SERVED)
            await work(lambda root: Agent(root / AGENT, api, http, parallel=1), api)

    with structlog.testing.capture_logs():
        asyncio.run(asyncio.wait_for(run(), 550))


async def converge(start, root, *numbers, slack=False, killed=None):
    """Bring the agent below `root` to these generations; `slack`: with a record that waits for no disk.

    `killed` is set where the agent is to end before it gets there.
    """
    agent = start(root)
    if slack:
        agent.state._db.execute("PRAGMA synchronous = NORMAL")
    async with agent.running():
        for number in numbers:
            await agent.converger.accept(signed(ORDERS[number]))
            there = asyncio.create_task(agent.until(applied(ORDERS[number])))
            ended = asyncio.create_task((killed or asyncio.Event()).wait())
            await asyncio.wait({there, ended}, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            if not there.done():
                there.cancel()
                return
            await there


async def recover(start, api, root, *, accepted, newest):
    """What a start after the cut does, without a cloud first: `accepted` are the numbers that may answer then."""
    api.bytes, served = {}, api.bytes
    try:
        agent = start(root)
        assert agent.state.recovered is None
        await agent.converger.start_from_disk()
        agent.state.close()
    finally:
        api.bytes = served
    order = agent.holder.order
    assert order in {ORDERS[n].order if n else None for n in accepted}, f"{order} answers"
    assert agent.host.active == ACTIVE.get(order, {})
    await converge(start, root, newest)
    agent = root / AGENT
    assert not [path for path in (agent / "bundles").iterdir() if path.name.startswith(".")]
    assert not list((agent / "chunks" / "incoming").iterdir())
