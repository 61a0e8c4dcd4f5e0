"""What our broker guards by itself: wills, takeovers, sizes, keepalive, and an attacker without a password."""

import asyncio
import contextlib
import struct
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.broker import connect as packet
from cloud_core.broker.connect import Connect, encode, length_of, parse
from cloud_core.store import tables
from cloud_core.store.database import write
from shared.io.mqtt import Will
from shared.protocol.errors import Refused
from shared.protocol.topics import everyone, topic
from tests.cloud_core.broker.brokers import PASSWORD, Client, Site, connected, database, running
from tests.cloud_core.waiting import eventually

DESIRED = topic("desired", tenant="a", device="d1")
DEATH = topic("death", tenant="a", device="d1")


def connect_packet(
    username: str, password: str, client_id: str, *, keepalive: int = 10, will: tuple[str, bytes] | None = None
) -> bytes:
    whole = encode(Connect(client_id, 0, username, None, *(will or (None, b"")), 1, False))
    body = bytearray(whole[whole.index(b"\x00\x04MQTT") :])
    body[7] |= 0x40
    body[8:10] = struct.pack("!H", keepalive)
    secret = password.encode()
    body += struct.pack("!H", len(secret)) + secret
    return b"\x10" + length_of(len(body)) + bytes(body)


async def raw(site: Site, first: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(first)
    async with asyncio.timeout(5):
        try:
            return reader, writer, await reader.readexactly(4)
        except (asyncio.IncompleteReadError, ConnectionError):
            return reader, writer, b""


def test_a_will_speaks_only_where_its_owner_may(tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1", "a/d2") as engine, running("embedded", tmp_path, engine) as site:
            victim = Client(site.server("a/d1"), subscribe=(DESIRED, topic("state")))
            async with connected(victim):
                for foreign in (DESIRED, topic("state"), DEATH):
                    _, writer, answer = await raw(
                        site, connect_packet("a/d2", PASSWORD, "a/d2", will=(foreign, b"poison"))
                    )
                    assert answer == packet.connack(5)
                    writer.close()
                assert victim.received == []

    asyncio.run(main())


def test_who_cannot_authenticate_disturbs_nobody(tmp_path: Path) -> None:
    """amqtt would drop the session of the named client before asking for a password."""

    async def main() -> None:
        async with database(tmp_path, "a/d1") as engine, running("embedded", tmp_path, engine) as site:
            victim = Client(site.server("a/d1"), subscribe=(DESIRED,))
            cloud = Client(site.server("cloud-core/loops"))
            async with connected(victim, cloud):
                for client_id in ("a/d1", "cloud-core/loops"):
                    _, writer, answer = await raw(site, connect_packet("a/d1", "wrong", client_id))
                    assert answer == packet.connack(5)
                    writer.close()
                await cloud.link.publish(DESIRED, b"still here")

                async def heard() -> bool:
                    return [one.payload for one in victim.received] == [b"still here"]

                await eventually(heard)
                assert (victim.births, cloud.births) == (1, 1)

    asyncio.run(main())


def test_the_same_user_takes_over_and_the_older_connection_says_its_will(tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1") as engine, running("embedded", tmp_path, engine) as site:
            cloud = Client(site.server("cloud-core/loops"), subscribe=(everyone("death"),))
            async with connected(cloud):
                _, first, answer = await raw(site, connect_packet("a/d1", PASSWORD, "a/d1", will=(DEATH, b"one")))
                assert answer == packet.connack(0)
                newer = Client(site.server("a/d1"), subscribe=(DESIRED,), will=Will(DEATH, b"two"))
                async with connected(newer):

                    async def willed() -> bool:
                        return [one.payload for one in cloud.received] == [b"one"]

                    await eventually(willed)
                    await cloud.link.publish(DESIRED, b"x")

                    async def served() -> bool:
                        return len(newer.received) == 1

                    await eventually(served)
                first.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "then",
    [
        b"",
        b"\x30\xff\xff\xff\x7f",
        b"\x30\xff\xff\xff\xff\xff",
        b"\xf0\x00",
        b"\x00\x00",
        b"\x30\x04\x00\x01$x",
        b"\x10\x00",
    ],
    ids=["silence", "huge", "bad-length", "reserved", "zero", "dollar", "again"],
)
def test_who_is_silent_or_breaks_the_protocol_is_cut_off_and_its_will_speaks(then: bytes, tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1") as engine, running("embedded", tmp_path, engine) as site:
            cloud = Client(site.server("cloud-core/loops"), subscribe=(everyone("death"),))
            async with connected(cloud):
                reader, writer, answer = await raw(
                    site, connect_packet("a/d1", PASSWORD, "a/d1", keepalive=1, will=(DEATH, b"will"))
                )
                assert answer == packet.connack(0)
                writer.write(then)

                async def willed() -> bool:
                    return [one.payload for one in cloud.received] == [b"will"]

                await eventually(willed)
                async with asyncio.timeout(5):
                    with contextlib.suppress(ConnectionError):
                        assert await reader.read() == b""
                writer.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "first", [b"\x30\x00", b"\x10\xff\xff\xff\x7f", b"GET / HTTP/1.1\r\n\r\n", b"\x10\x02\x00\x04"]
)
def test_what_is_no_connect_gets_no_further(first: bytes, tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1") as engine, running("embedded", tmp_path, engine) as site:
            _, writer, answer = await raw(site, first)
            assert answer == b""
            writer.close()
            alive = Client(site.server("a/d1"))
            async with connected(alive):
                assert alive.births == 1

    asyncio.run(main())


def test_known_devices_get_in_while_the_database_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1") as engine, running("embedded", tmp_path, engine) as site:
            first = Client(site.server("a/d1"))
            async with connected(first):
                pass
            async with write(engine) as connection:
                # Readers of SQLite do not wait for this writer: a busy database is no reason to refuse.
                await connection.execute(sa.update(tables.devices).values(description="busy"))
                again = Client(site.server("a/d1"))
                async with connected(again):
                    assert again.births == 1

    asyncio.run(main())


@given(
    st.builds(
        Connect,
        client_id=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50),
        keepalive=st.just(0),
        username=st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50),
        password=st.none(),
        will_topic=st.none(),
        will_payload=st.just(b""),
        will_qos=st.just(0),
        will_retain=st.just(False),
    ),
    st.binary(max_size=300),
)
def test_connect_survives_the_round_trip_and_garbage_is_refused(connect: Connect, garbage: bytes) -> None:
    whole = encode(connect)
    assert parse(whole[whole.index(b"\x00\x04MQTT") :]) == connect
    with contextlib.suppress(Refused):
        parse(garbage)
