"""From a committed assignment to a signed generation on the device, through broker restarts."""

import asyncio
import time
from pathlib import Path

import pytest

from cloud_core.store import control, devices, generations, groups
from cloud_core.store.database import read, write
from shared.io.free_ports import find_ports
from shared.protocol.desired import Order
from shared.protocol.policy import Mode, Policy
from tests.cloud_core.broker.brokers import KINDS, connected, database, running
from tests.cloud_core.loops.fleet import Agent, assign, loops, publish_model, put_group, put_policy
from tests.cloud_core.waiting import eventually


@pytest.mark.parametrize("kind", KINDS)
def test_an_assignment_becomes_a_generation_on_the_device(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            database(tmp_path, "a/d1", "a/d2", "b/d1") as engine,
            running(kind, tmp_path, engine) as site,
            loops(site) as (_, registry),
        ):
            agent, other = Agent(site, "a/d1"), Agent(site, "a/d2")
            async with connected(agent.client, other.client):
                digest = await publish_model(engine, "sentiment", "1.0.0")
                await publish_model(engine, "sentiment", "1.1.0")
                await put_group(engine, "g", "d1")
                await assign(engine, "g", ("sentiment", "1.0.0"))

                async def got(count: int) -> bool:
                    return len(agent.generations()) >= count

                await eventually(lambda: got(1))
                first = agent.generations()[0]
                assert (first.tenant, first.device, first.order) == ("a", "d1", Order(1, 1))
                assert [(m.name, m.version, m.digest) for m in first.models] == [("sentiment", "1.0.0", digest)]
                assert first.policy == Policy()
                await agent.report(applied=first.order)

                await put_policy(engine, "fast", Policy(mode=Mode.FASTEST))
                await assign(engine, "g", ("sentiment", "1.1.0"), policy="fast")
                await eventually(lambda: got(2))
                second = agent.generations()[-1]
                assert second.order > first.order
                assert (second.policy.mode, second.policy_name, second.policy_revision) == (Mode.FASTEST, "fast", 1)
                await put_policy(engine, "fast", Policy(mode=Mode.LOCAL_ONLY))
                await eventually(lambda: got(3))
                assert agent.generations()[-1].policy_revision == 2

                async with write(engine) as connection:
                    await groups.remove(connection, "a", "g", "d1", now=time.time())
                await eventually(lambda: got(4))
                assert agent.generations()[-1].models == ()
                assert other.generations() == []

                async with read(engine) as connection:
                    why = [one.why for one in await generations.history(connection, "a", "d1")]
                assert why == ["unassigned: ", "policy-changed: g", "models-changed: g", "new-assignment: g"]

                async def converged() -> bool:
                    return registry.get_sample_value("tideline_convergence_seconds_count") == 1.0

                await eventually(converged)
                assert registry.get_sample_value("tideline_generations_total", {"reason": "unassigned"}) == 1.0

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_that_lost_everything_is_told_again(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        port = find_ports("127.0.0.1")
        async with database(tmp_path, "a/d1", "a/d2") as engine:
            await publish_model(engine, "m", "1.0.0")
            await put_group(engine, "g", "d1", "d2")
            await assign(engine, "g", ("m", "1.0.0"))
            async with running(kind, tmp_path, engine, port=port) as site:
                agent = Agent(site, "a/d1")
                connecting = connected(agent.client)
                running_loops = loops(site)
                await running_loops.__aenter__()
                await connecting.__aenter__()

                async def got(count: int) -> bool:
                    return len(agent.generations()) >= count

                await eventually(lambda: got(1))
            await eventually(lambda: _gone(agent))
            # While the broker is away the desired state changes.
            await publish_model(engine, "m", "2.0.0")
            await assign(engine, "g", ("m", "2.0.0"))
            async with running(kind, tmp_path, engine, port=port) as site:
                try:

                    async def newest() -> bool:
                        return bool(agent.generations()) and agent.generations()[-1].models[0].version == "2.0.0"

                    await eventually(newest)
                    # A device that was not there when it was published finds it retained.
                    late = Agent(site, "a/d2")
                    async with connected(late.client):

                        async def has() -> bool:
                            return bool(late.generations())

                        await eventually(has)
                        assert late.generations()[-1].models[0].version == "2.0.0"
                finally:
                    await connecting.__aexit__(None, None, None)
                    await running_loops.__aexit__(None, None, None)

    async def _gone(agent: Agent) -> bool:
        return not agent.client.link.connected

    asyncio.run(main())


def test_a_contradiction_blocks_its_devices_and_nobody_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            database(tmp_path, "a/d1", "a/d2") as engine,
            running("embedded", tmp_path, engine) as site,
            loops(site) as (_, registry),
        ):
            good, bad = Agent(site, "a/d1"), Agent(site, "a/d2")
            async with connected(good.client, bad.client):
                await publish_model(engine, "m", "1.0.0")
                await put_group(engine, "ok", "d1", "d2")
                await put_group(engine, "broken", "d2")
                await assign(engine, "broken", ("absent", "9.9.9"), priority=1)
                await assign(engine, "ok", ("m", "1.0.0"))

                async def done() -> bool:
                    return bool(good.generations()) and registry.get_sample_value("tideline_devices_blocked") == 1.0

                await eventually(done)
                assert bad.generations() == []

    asyncio.run(main())


def test_a_raised_epoch_reissues_and_a_deleted_device_is_forgotten(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            database(tmp_path, "a/d1") as engine,
            running("embedded", tmp_path, engine) as site,
            loops(site),
        ):
            agent = Agent(site, "a/d1")
            async with connected(agent.client):
                await publish_model(engine, "m", "1.0.0")
                await put_group(engine, "g", "d1")
                await assign(engine, "g", ("m", "1.0.0"))

                async def at(order: Order) -> bool:
                    return bool(agent.generations()) and agent.generations()[-1].order == order

                await eventually(lambda: at(Order(1, 1)))
                async with write(engine) as connection:
                    assert await control.raise_control_epoch(connection) == 2
                await put_policy(engine, "wakes", Policy())
                await eventually(lambda: at(Order(2, 1)))
                async with write(engine) as connection:
                    assert await devices.delete(connection, "a", "d1", now=time.time())

                async def cleared() -> bool:
                    return any(one.where.row.name == "desired" and not one.payload for one in agent.client.received)

                await eventually(cleared)

    asyncio.run(main())
