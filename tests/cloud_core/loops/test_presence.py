"""The control plane's own presence, devices lost by silence, and who may connect."""

import asyncio
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from cloud_core.loops.metrics import LoopMetrics
from cloud_core.loops.sweep import Sweep
from cloud_core.store import devices, events, outbox, tables
from cloud_core.store.database import read, write
from shared.protocol.reported import STATE, Birth, CloudState
from shared.protocol.topics import topic
from tests.cloud_core.broker.brokers import KINDS, LOG, Client, connected, database, enrol, running
from tests.cloud_core.loops.fleet import HARDWARE, Agent, loops
from tests.cloud_core.waiting import eventually


class Hand:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("kind", KINDS)
def test_devices_see_the_control_plane_come_and_go(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1") as engine, running(kind, tmp_path, engine) as site:
            agent = Agent(site, "a/d1")

            def states() -> list[tuple[bool, int]]:
                return [(one.online, one.epoch) for one in agent.heard("state", STATE, CloudState)]

            async def seen(*expected: tuple[bool, int]) -> bool:
                return states() == list(expected)

            async with connected(agent.client):
                async with loops(site):
                    await eventually(lambda: seen((True, 1)))
                await eventually(lambda: seen((True, 1), (False, 1)))
                async with loops(site) as (running_loops, _):
                    await eventually(lambda: seen((True, 1), (False, 1), (True, 2)))
                    # A crash: no goodbye, the broker speaks the will.
                    running_loops._stops.clear()
                await eventually(lambda: seen((True, 1), (False, 1), (True, 2), (False, 2)))
            late = Client(site.server("a/d1"), subscribe=(topic("state"),))
            async with connected(late):

                async def retained() -> bool:
                    return len(late.received) == 1 and late.received[0].retained

                await eventually(retained)

    asyncio.run(main())


def test_silence_loses_a_device_and_a_word_finds_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1", "a/d2", "a/d3") as engine:
            clock, registry = Hand(), CollectorRegistry()
            sweep = Sweep(engine, lost_after=90.0, metrics=LoopMetrics(registry), clock=clock, log=LOG)

            def count(state: str) -> float | None:
                return registry.get_sample_value("tideline_devices", {"state": state})

            async with write(engine) as connection:
                for name in ("d1", "d2"):
                    born = Birth(epoch=1, at=0.0, agent_version="1", hardware=HARDWARE, state_digest="")
                    assert await devices.record_birth(connection, "a", name, born, now=clock.now)
            await sweep.judge()
            assert (count("online"), count("stale"), count("lost"), count("never")) == (2, 0, 0, 1)
            clock.now += 45
            async with write(engine) as connection:
                await devices.touch(connection, "a", "d2", now=clock.now)
            await sweep.judge()
            assert (count("online"), count("stale"), count("lost"), count("never")) == (1, 1, 0, 1)
            clock.now += 50
            await sweep.judge()
            await sweep.judge()
            assert (count("stale"), count("lost")) == (1, 1)
            async with write(engine) as connection:
                await devices.touch(connection, "a", "d1", now=clock.now + 1)
            clock.now += 2
            await sweep.judge()
            assert (count("online"), count("lost")) == (1, 0)
            async with read(engine) as connection:
                kinds = [(one.kind, one.name) for one in await events.after(connection, 0)]
            assert kinds == [("online", "d1"), ("online", "d2"), ("lost", "d1"), ("online", "d1")]

    asyncio.run(main())


def test_what_was_kept_long_enough_goes(tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1") as engine:
            clock = Hand()
            sweep = Sweep(engine, lost_after=90.0, metrics=LoopMetrics(CollectorRegistry()), clock=clock, log=LOG)
            async with write(engine) as connection:
                await outbox.add(connection, "a", "d1", kind="command", payload="{}", now=clock.now)
                await outbox.add(connection, "a", "d1", kind="command", payload="{}", now=clock.now)
                await outbox.mark_sent(connection, [1], now=clock.now)
                await events.append(connection, "a", kind="x", resource="y", name="z", now=clock.now)
            clock.now += 8 * 86400
            await sweep.trim()
            async with read(engine) as connection:
                assert [row.id for row in await outbox.unsent(connection)] == [2]
                assert await events.after(connection, 0) == []
                assert (
                    await connection.execute(sa.select(sa.func.count()).select_from(tables.outbox))
                ).scalar_one() == 1

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_an_enrolled_device_gets_in_and_a_deleted_one_stays_out(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            database(tmp_path, "a/d1") as engine,
            running(kind, tmp_path, engine) as site,
            loops(site),
        ):
            await enrol(engine, "a/new")
            async with write(engine) as connection:
                await events.append(connection, "a", kind="enrolled", resource="devices", name="new", now=time.time())
            fresh = Client(site.server("a/new"))
            async with connected(fresh), write(engine) as connection:
                assert await devices.delete(connection, "a", "new", now=time.time())
            again = Client(site.server("a/new"))

            async def is_out() -> bool:
                task = asyncio.create_task(again.link.run())
                await asyncio.sleep(0.3)
                was_in = again.link.connected
                await again.link.close()
                await task
                again.link._closing.clear()
                return not was_in

            await eventually(is_out)

    asyncio.run(main())


def test_a_connected_device_that_is_deleted_is_thrown_out(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            database(tmp_path, "a/d1", "a/d2") as engine,
            running("embedded", tmp_path, engine) as site,
        ):
            doomed, other = Client(site.server("a/d1")), Client(site.server("a/d2"))
            async with connected(doomed, other):
                async with write(engine) as connection:
                    await devices.delete(connection, "a", "d1", now=time.time())

                async def out() -> bool:
                    return not doomed.link.connected

                await eventually(out)
                assert other.link.connected
                assert other.births == 1

    asyncio.run(main())
