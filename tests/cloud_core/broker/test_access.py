"""Who may do what, judged by what is delivered, alike on our broker and on Mosquitto."""

import asyncio
from pathlib import Path

import pytest

from shared.protocol.errors import Refused
from shared.protocol.topics import BY_NAME, TOPICS, Role, everyone, may_publish, may_subscribe, topic
from tests.cloud_core.broker.brokers import KINDS, Client, connected, database, running
from tests.cloud_core.waiting import eventually

NAMES = ("a/d1", "a/d2", "b/d1", "cloud-core/loops")


def concrete(row: str, name: str) -> str:
    tenant, device = name.split("/") if not name.startswith("cloud-core") else ("a", "d1")
    return topic(row, tenant=tenant, device=device, free=("x", "y"))


def who(name: str) -> dict[str, object]:
    if name.startswith("cloud-core"):
        return {"role": Role.CLOUD, "tenant": None, "device": None}
    tenant, device = name.split("/")
    return {"role": Role.DEVICE, "tenant": tenant, "device": device}


@pytest.mark.parametrize("kind", KINDS)
def test_everyone_publishes_everything_and_only_the_table_is_delivered(kind: str, tmp_path: Path) -> None:
    """N x N: each principal publishes to each row of each device, each reads all it can subscribe to; foreign deliveries are none."""

    async def main() -> None:
        async with database(tmp_path, "a/d1", "a/d2", "b/d1") as engine, running(kind, tmp_path, engine) as site:
            targets = sorted({concrete(row.name, name) for row in TOPICS for name in NAMES if "infer" not in row.name})
            clients = {name: Client(site.server(name)) for name in NAMES}
            async with connected(*clients.values()):
                for client in clients.values():
                    for filters in (*targets, *(everyone(row.name) for row in TOPICS), "#", "tideline/v1/#", "+/+/+"):
                        try:
                            await client.link.subscribe(filters)
                        except Refused:
                            assert kind == "embedded"
                sent = 0
                for name, client in clients.items():
                    for target in targets:
                        await client.link.publish(target, name.encode())
                        sent += 1
                expected = {
                    (reader, writer, target)
                    for reader in NAMES
                    for writer in NAMES
                    for target in targets
                    if may_publish(**who(writer), text=target) and may_subscribe(**who(reader), text=target)  # type: ignore[arg-type]
                }

                def got() -> set[tuple[str, str, str]]:
                    return {
                        (name, message.payload.decode(), message.topic)
                        for name, client in clients.items()
                        for message in client.received
                    }

                async def complete() -> bool:
                    return expected <= got()

                await eventually(complete)
                # Mosquitto knows no "but not get" beside chunks/+ and trust/+: there the owner and the cloud hear each other's requests.
                extra = {(reader, writer, target) for reader, writer, target in got() - expected}
                if kind == "mosquitto":
                    extra = {
                        (reader, writer, target)
                        for reader, writer, target in extra
                        if not target.endswith("/get")
                        or not {reader, writer} <= {"cloud-core/loops", "/".join(target.split("/")[2:4])}
                    }
                assert extra == set()
                assert sent == len(NAMES) * len(targets)

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_enters_with_a_wrong_name_password_or_foreign_id(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1", "a/d2") as engine, running(kind, tmp_path, engine) as site:
            for server in (
                site.server("a/d1", password="wrong"),
                site.server("a/unknown"),
                site.server("a/+"),
                site.server("cloud-core/loops", password="device-password"),
                site.server("cloud-core/other"),
                site.server("cloud-core/loops/x"),
                site.server(""),
            ):
                client = Client(server)
                task = asyncio.create_task(client.link.run())
                await asyncio.sleep(0.3)
                assert not client.link.connected, server
                await client.link.close()
                await task
            # Somebody else's client id: ours refuses, Mosquitto gives the connection its user's own id. Nobody is thrown out.
            victim, thief = Client(site.server("a/d1")), Client(site.server("a/d2", client_id="a/d1"))
            async with connected(victim):
                task = asyncio.create_task(thief.link.run())
                await asyncio.sleep(0.5)
                assert victim.link.connected
                assert thief.link.connected == (kind == "mosquitto")
                await thief.link.close()
                await task
                assert victim.births == 1

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_retained_levels_reach_their_reader_and_nobody_else(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1", "a/d2") as engine, running(kind, tmp_path, engine) as site:
            cloud = Client(site.server("cloud-core/loops"), subscribe=(everyone("birth"),))
            mine = topic("desired", tenant="a", device="d1")
            async with connected(cloud):
                await cloud.link.publish(mine, b"one", retain=True)
                await cloud.link.publish(mine, b"two", retain=True)
                first = Client(site.server("a/d1"), subscribe=(mine,))
                other = Client(site.server("a/d2"))
                async with connected(first, other):

                    async def arrived() -> bool:
                        return bool(first.received)

                    await eventually(arrived)
                    # A retained birth is no level: a later subscriber must not take it for news (Mosquitto keeps it; epochs guard).
                    await first.link.publish(topic("birth", tenant="a", device="d1"), b"b", retain=True)
                    await first.link.publish(topic("birth", tenant="a", device="d1"), b"c")
                assert [message.payload for message in first.received] == [b"two"]
                assert first.received[0].retained
                assert other.received == []
                if kind == "embedded":
                    late = Client(site.server("cloud-core/gateway"), subscribe=(everyone("birth"),))
                    async with connected(late):
                        await late.link.publish(topic("state"), b"x", retain=True)
                    assert late.received == []

    asyncio.run(main())


def test_rows_of_the_table_are_all_spoken_for() -> None:
    """Cloud and device speak every row but inference over MQTT, where an integrator stands on one side."""
    for row in TOPICS:
        speakers = {row.writer, *row.readers}
        assert speakers <= {Role.CLOUD, Role.DEVICE} or row.name.startswith("infer") or row is BY_NAME["state"]
