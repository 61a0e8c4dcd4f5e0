"""Kill -9 at points all over a convergence: the next run answers at once with a whole generation, and reaches the newest."""

import asyncio
import itertools
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.edge_agent.control.device import Agent
from tests.edge_agent.control.device_api import device_api
from tests.edge_agent.control.generations import generation, ref, signed
from tests.shared.bundle.bundles import bundle

_, OLD_DATA, OLD, OLD_CHUNKS = bundle()
_, NEW_DATA, NEW, NEW_CHUNKS = bundle(version="1.1.0")
ONE, TWO = generation(1, ref(OLD)), generation(2, ref(NEW, version="1.1.0"))
ACTIVE = {ONE.order: {"sentiment-zh": "1.0.0"}, TWO.order: {"sentiment-zh": "1.1.0"}}

CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from aiohttp import ClientSession
from edge_agent.control import state as record
from shared.bundle import store
from tests.edge_agent.control.device import Agent
from tests.edge_agent.control.test_converge_kill import TWO, applied, signed

left = int(sys.argv[3])

def killing(real):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call

for name in ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir"):
    setattr(os, name, killing(getattr(os, name)))
for name in ("accept", "apply", "begin", "finish"):
    setattr(record.AgentState, name, killing(getattr(record.AgentState, name)))

async def main():
    async with ClientSession() as http:
        async with Agent(Path(sys.argv[1]), SimpleNamespace(url=sys.argv[2]), http).running() as agent:
            await agent.converger.accept(signed(TWO))
            await agent.until(applied(TWO))

asyncio.run(main())
"""


def applied(of):
    return lambda report: report.applied == of.order and report.convergence == "applied"


def killed_at(folder, points):
    """Converge from ONE to TWO, killed at each of `points` until there is no such point; returns how many died."""

    async def child(url, at, n):
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", CHILD, str(at), url, str(n)],
            cwd=Path.cwd(),
            capture_output=True,
            text=True,
            check=False,
        )

    async def work():
        died = 0
        async with device_api() as (api, http):
            served = {OLD: OLD_DATA, NEW: NEW_DATA, **OLD_CHUNKS, **NEW_CHUNKS}
            api.bytes = served
            async with Agent(folder / "one", api, http).running() as agent:
                await agent.converger.accept(signed(ONE))
                await agent.until(applied(ONE))
            for n in points:
                at = folder / str(n)
                shutil.copytree(folder / "one", at)
                done = await child(api.url, at, n)
                assert done.returncode in (0, -signal.SIGKILL), done.stderr
                if done.returncode == 0:
                    break
                died += 1
                api.bytes = {}
                after = Agent(at, api, http)
                assert after.state.recovered is None
                await after.converger.start_from_disk()
                assert after.holder.order in ACTIVE, n
                assert after.host.active == ACTIVE[after.holder.order]
                after.state.close()
                api.bytes = served
                async with Agent(at, api, http).running() as agent:
                    await agent.converger.accept(signed(TWO))
                    await agent.until(applied(TWO))
                    assert not [path for path in agent.bundles.iterdir() if path.name.startswith(".")]
                    assert list((at / "chunks" / "incoming").iterdir()) == []
        return died

    return asyncio.run(work())


def test_kill_9_in_the_middle_of_a_convergence(tmp_path):
    assert killed_at(tmp_path, (8, 25, 40)) == 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_9_at_every_durable_call_of_a_convergence(tmp_path):
    assert killed_at(tmp_path, itertools.count(1)) > 40
