"""What devices say: presence by epoch, reports by order, telemetry acknowledged once it is durable, garbage counted."""

import asyncio
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from cloud_core.loops.ingest import not_after
from cloud_core.store import devices, events, tables, telemetry
from cloud_core.store.database import read, write
from shared.io.signing import verify
from shared.protocol import commands, reported
from shared.protocol import telemetry as telemetry_wire
from shared.protocol.commands import Command, SignedCommand, Verb
from shared.protocol.desired import Order
from shared.protocol.envelope import decoded
from shared.protocol.reported import Death
from shared.protocol.telemetry import Ack
from tests.cloud_core.broker.brokers import KEYS, KINDS, connected, database, running
from tests.cloud_core.loops.fleet import HOST, START, Agent, cut, device, loops
from tests.cloud_core.waiting import eventually


@pytest.mark.parametrize("kind", KINDS)
def test_presence_follows_the_newest_connection(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            database(tmp_path, "a/d1") as engine,
            running(kind, tmp_path, engine) as site,
            loops(site),
        ):
            agent = Agent(site, "a/d1", epoch=7)
            async with connected(agent.client):

                async def epoch(number: int, *, is_dead: bool) -> bool:
                    held = await device(engine, "a/d1")
                    return held.epoch == number and (held.died_at is not None) == is_dead

                await eventually(lambda: epoch(7, is_dead=False))
                # The will of an older connection comes late: nothing changes. Then, of this one: it does.
                await agent.say("death", reported.DEATH, Death(epoch=6))
                await agent.birth(8)
                await agent.say("death", reported.DEATH, Death(epoch=7))
                await agent.birth(5)
                await agent.report()
                await eventually(lambda: epoch(8, is_dead=False))
                await agent.say("death", reported.DEATH, Death(epoch=8))
                await eventually(lambda: epoch(8, is_dead=True))
                agent.epoch = 9
                agent.client._will = agent.client._will and agent.client._will._replace(
                    payload=agent.sealed(reported.DEATH, Death(epoch=9))
                )
                cut(agent.client)
                await eventually(lambda: epoch(9, is_dead=False))
                async with read(engine) as connection:
                    kinds = [one.kind for one in await events.after(connection, 0)]
                assert [kind for kind in kinds if kind in ("online", "offline")] == [
                    "online",
                    "online",
                    "offline",
                    "online",
                ]

                # Cut for good: the broker speaks the will.
                agent.client.link._closing.set()
                cut(agent.client)
                await eventually(lambda: epoch(9, is_dead=True))

    asyncio.run(main())


def test_the_newest_report_stays_whatever_the_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            database(tmp_path, "a/d1") as engine,
            running("embedded", tmp_path, engine) as site,
            loops(site) as (_, registry),
        ):
            agent = Agent(site, "a/d1")
            async with connected(agent.client):
                for epoch, seq in ((2, 5), (2, 4), (1, 99), (2, 6), (2, 6), (3, 1), (2, 7)):
                    await agent.report(epoch=epoch, seq=seq)

                async def counted() -> bool:
                    stored = registry.get_sample_value(
                        "tideline_mqtt_messages_total", {"kind": "reported", "outcome": "stored"}
                    )
                    old = registry.get_sample_value(
                        "tideline_mqtt_messages_total", {"kind": "reported", "outcome": "old-news"}
                    )
                    return (stored, old) == (3.0, 4.0)

                await eventually(counted)
                held = await device(engine, "a/d1")
                assert (held.reported_epoch, held.reported_seq) == (3, 1)

    asyncio.run(main())


def test_a_birth_with_another_digest_is_asked_for_a_report(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            database(tmp_path, "a/d1") as engine,
            running("embedded", tmp_path, engine) as site,
            loops(site),
        ):
            agent = Agent(site, "a/d1", digest="one")
            async with connected(agent.client):

                async def commanded(count: int) -> bool:
                    return len(agent.heard("command", commands.KIND, SignedCommand)) == count

                await eventually(lambda: commanded(1))
                signed = agent.heard("command", commands.KIND, SignedCommand)[0]
                verify(
                    signed.payload.encode(),
                    signature=signed.signature,
                    key_id=signed.key_id,
                    keys=[KEYS.generation.pinned],
                )
                command = decoded(signed.payload.encode(), Command)
                assert (command.tenant, command.device, command.verb) == ("a", "d1", Verb.REPORT)
                await agent.report(applied=Order(1, 1))

                async def reported_digest() -> bool:
                    return (await device(engine, "a/d1")).reported_seq == 1

                await eventually(reported_digest)
                await agent.birth(2)  # the same digest: nothing to ask
                agent.digest = "two"
                await agent.birth(3)
                await eventually(lambda: commanded(2))

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_telemetry_is_stored_once_and_acknowledged_from_what_is_held(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            database(tmp_path, "a/d1") as engine,
            running(kind, tmp_path, engine) as site,
            loops(site),
        ):
            agent = Agent(site, "a/d1")
            async with connected(agent.client):
                for seqs in ((1, 2, 3), (2, 3), (4, 5)):
                    await agent.telemetry(*seqs)
                await agent.telemetry(1, epoch=2)

                async def acked() -> bool:
                    return {Ack(epoch=1, seq=5), Ack(epoch=2, seq=1)} <= set(agent.acks())

                await eventually(acked)
                async with read(engine) as connection:
                    rows = (await connection.execute(sa.select(tables.telemetry))).all()
                    assert await telemetry.watermark(connection, "a", "d1", epoch=1) == 5
                assert len(rows) == 6
                assert (await device(engine, "a/d1")).telemetry_at == START + 6

    asyncio.run(main())


def test_a_clock_that_runs_ahead_neither_hides_nor_outlives_later_samples() -> None:
    ahead = telemetry_wire.Sample(seq=1, started_at=5e11, ended_at=5e11 + 10, host=HOST)
    moved = not_after(ahead, 1000.0)
    assert (moved.started_at, moved.ended_at) == (990.0, 1000.0)
    assert not_after(moved, 1000.0) is moved


def test_a_database_that_is_locked_loses_nothing_and_acknowledges_nothing_early(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            database(tmp_path, "a/d1") as engine,
            running("embedded", tmp_path, engine) as site,
            loops(site),
        ):
            agent = Agent(site, "a/d1")
            async with connected(agent.client):

                async def born() -> bool:
                    return (await device(engine, "a/d1")).epoch == 1

                await eventually(born)
                async with write(engine):
                    await agent.telemetry(1, 2)
                    await asyncio.sleep(0.5)
                    assert agent.acks() == []

                async def acked() -> bool:
                    return agent.acks() == [Ack(epoch=1, seq=2)]

                await eventually(acked)

    asyncio.run(main())


def test_garbage_newer_protocols_and_strangers_are_counted_and_nothing_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            database(tmp_path, "a/d1", "a/gone") as engine,
            running("embedded", tmp_path, engine) as site,
            loops(site) as (_, registry),
        ):
            agent, stranger = Agent(site, "a/d1"), Agent(site, "a/gone")
            async with connected(agent.client, stranger.client):
                sealed = agent.sealed(reported.DEATH, Death(epoch=2**63))
                garbage = [
                    b"", b"\x00\xff", b"{}", b"[" * 5000, b'{"v":"2.0","kind":"birth","id":"x","sent_at":1,"body":{}}',
                    agent.sealed("other", {}), agent.sealed(reported.BIRTH, {"epoch": -1}), sealed,
                    b"x" * (1024 * 1024 + 1),
                ]  # fmt: skip
                rows = ("birth", "death", "reported", "telemetry", "command-result")
                for row in rows:
                    for payload in garbage:
                        await agent.client.link.publish(agent.topic(row), payload)
                await agent.telemetry(2**63)
                async with write(engine) as connection:
                    await devices.delete(connection, "a", "gone", now=time.time())
                await stranger.report()
                await agent.telemetry(1)

                def count(kind: str, outcome: str) -> float:
                    labels = {"kind": kind, "outcome": outcome}
                    return registry.get_sample_value("tideline_mqtt_messages_total", labels) or 0.0

                async def counted() -> bool:
                    refused = sum(count(row, "refused") for row in rows)
                    return refused == len(rows) * len(garbage) + 1 and count("reported", "unknown-device") == 1

                await eventually(counted)

                async def alive() -> bool:
                    return agent.acks() == [Ack(epoch=1, seq=1)]

                await eventually(alive)

    asyncio.run(main())
