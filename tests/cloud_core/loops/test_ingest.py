"""What devices say: presence by epoch, reports by order, telemetry acknowledged once it is durable, garbage counted."""

import asyncio
import time
from pathlib import Path

import pytest

from cloud_core.store import devices, events, telemetry
from cloud_core.store.database import read, write
from cloud_core.store.telemetry import Source
from shared.io.signing import verify
from shared.protocol import commands, reported
from shared.protocol.commands import Command, SignedCommand, Verb
from shared.protocol.desired import Order
from shared.protocol.envelope import decoded
from shared.protocol.reported import Death
from shared.protocol.telemetry import Ack
from tests.cloud_core.broker.brokers import KEYS, KINDS, connected, database, running
from tests.cloud_core.loops.fleet import START, Agent, cut, device, loops
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
                    kept = await telemetry.after(connection, 0, limit=100)
                    (uplink,) = (await telemetry.uplinks(connection, [Source("a", "d1", 1)])).values()
                assert uplink.seq == 5
                assert sorted(one.sample.seq for one in kept) == [1, 1, 2, 3, 4, 5]
                assert (await device(engine, "a/d1")).telemetry_at == START + 6

    asyncio.run(main())


@pytest.mark.parametrize("ahead", [365 * 86400.0, -START], ids=["a-year-ahead", "at-1970"])
def test_a_clock_a_year_ahead_or_at_1970_poisons_nothing(ahead: float, tmp_path: Path) -> None:
    """Its samples lie where they were taken; those that went on their way before it was set lie where they came."""

    async def main() -> None:
        async with (
            database(tmp_path, "a/d1") as engine,
            running("embedded", tmp_path, engine) as site,
            loops(site),
        ):
            agent = Agent(site, "a/d1")
            async with connected(agent.client):
                agent.clock_ahead = ahead
                await agent.telemetry(1, 2)

                async def acked(seq: int) -> bool:
                    return Ack(epoch=1, seq=seq) in agent.acks()

                await eventually(lambda: acked(2))
                agent.clock_ahead = 0.0
                await agent.telemetry(3)
                await eventually(lambda: acked(3))
                async with read(engine) as connection:
                    kept = await telemetry.after(connection, 0, limit=100)
                ended = {one.sample.seq: one.sample.ended_at for one in kept}
                assert ended[1] == pytest.approx(START + 2, abs=30)
                assert ended[2] == pytest.approx(START + 3, abs=30)
                assert ended[3] == START + 4

    asyncio.run(main())


def test_what_is_missing_for_good_is_asked_about_once_and_births_of_known_devices_ask_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            database(tmp_path, "a/d1") as engine,
            running("embedded", tmp_path, engine) as site,
            loops(site) as (_, registry),
        ):
            agent = Agent(site, "a/d1")
            async with connected(agent.client):

                def commanded() -> int:
                    return len(agent.heard("command", commands.KIND, SignedCommand))

                async def settled(seq: int, asked: int) -> bool:
                    return Ack(epoch=1, seq=seq) in agent.acks() and commanded() == asked

                await agent.report()
                await agent.telemetry(1, 2)
                await eventually(lambda: settled(2, 1))  # of the birth, whose digest was new
                for epoch in range(2, 22):
                    await agent.birth(epoch)
                await agent.telemetry(3, 5)  # 4 was dropped between them: the device counts it
                await eventually(lambda: settled(5, 1))
                await agent.telemetry(9, 10)  # 6 to 8 are gone: the cloud may have been restored from a backup
                await eventually(lambda: settled(10, 2))
                await agent.telemetry(9, 10)
                await agent.telemetry(11)
                await eventually(lambda: settled(11, 2))
                assert registry.get_sample_value("tideline_telemetry_skipped_total") == 3.0

    asyncio.run(main())


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
