"""The link: kept for ever, bounded, and never ended by what comes over the wire."""

import asyncio
from pathlib import Path

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from shared.io.free_ports import find_ports
from shared.io.mqtt import BACKOFF_CAP, Outcome, Received, Server, Will, backoff
from shared.protocol.errors import Refused, Transient, Unavailable
from shared.protocol.topics import everyone, topic
from tests.cloud_core.broker.brokers import KINDS, Client, connected, database, running
from tests.cloud_core.loops.fleet import cut
from tests.cloud_core.waiting import eventually

DEATH = topic("death", tenant="a", device="d1")
BIRTH = topic("birth", tenant="a", device="d1")


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_delay_is_within_full_jitter_and_its_cap(attempt: int, u: float) -> None:
    delay = backoff(attempt, u=u)
    assert 0 <= delay <= BACKOFF_CAP
    assert delay <= 0.5 * 2.0 ** min(attempt, 20)
    assert backoff(attempt + 1, u=u) >= delay


@pytest.mark.parametrize("kind", KINDS)
def test_a_clean_close_says_farewell_and_a_cut_lets_the_will_speak(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1") as engine, running(kind, tmp_path, engine) as site:
            cloud = Client(site.server("cloud-core/loops"), subscribe=(everyone("death"),))
            own = Client(site.server("a/d1"), will=Will(DEATH, b"will"))
            async with connected(cloud):
                task = asyncio.create_task(own.link.run())
                await own.link.wait_connected()
                await own.link.close(lambda: own.link.publish(DEATH, b"farewell"))
                await task

                async def said(*payloads: bytes) -> bool:
                    return [one.payload for one in cloud.received] == list(payloads)

                await eventually(lambda: said(b"farewell"))
                again = Client(site.server("a/d1"), will=Will(DEATH, b"will"))
                async with connected(again):
                    cut(again)

                    async def reconnected() -> bool:
                        return again.births == 2 and again.link.connected

                    await eventually(reconnected)
                await eventually(lambda: said(b"farewell", b"will"))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_many_messages_go_together_and_arrive_in_order(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1") as engine, running(kind, tmp_path, engine) as site:
            cloud = Client(site.server("cloud-core/loops"))
            acks = topic("telemetry-ack", tenant="a", device="d1")
            own = Client(site.server("a/d1"), subscribe=(acks,))
            sent = [b"%d" % number for number in range(250)]
            with pytest.raises(Transient):
                await cloud.link.publish_all([(acks, b"nobody")])
            async with connected(own), connected(cloud):
                await cloud.link.publish_all([])
                await cloud.link.publish_all([(acks, payload) for payload in sent])

                async def arrived() -> bool:
                    return len(own.received) >= len(sent)

                await eventually(arrived)
                assert [one.payload for one in own.received] == sent

    asyncio.run(main())


def test_refusals_are_counted_and_a_bug_ends_the_link_with_its_will(tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1") as engine, running("embedded", tmp_path, engine) as site:
            handled: list[bytes] = []

            async def handler(message: Received) -> None:
                if message.payload == b"refuse":
                    raise Refused("no", field="x")
                if message.payload == b"later":
                    raise Transient("not now", why=Unavailable.STORAGE)
                if message.payload == b"bug":
                    raise ZeroDivisionError
                handled.append(message.payload)

            command, state = topic("command", tenant="a", device="d1"), topic("state")
            cloud = Client(site.server("cloud-core/loops"), subscribe=(everyone("death"),))
            own = Client(
                site.server("a/d1"),
                subscribe=(command, state),
                will=Will(DEATH, b"will"),
                handlers={"command": handler},
            )
            async with connected(cloud):
                task = asyncio.create_task(own.link.run())
                await own.link.wait_connected()
                await cloud.link.publish(state, b"x")
                for payload in (b"refuse", b"later", b"good"):
                    await cloud.link.publish(command, payload)

                async def good() -> bool:
                    return handled == [b"good"]

                await eventually(good)
                assert own.counts == {
                    ("unknown", Outcome.UNKNOWN): 1,
                    ("command", Outcome.REFUSED): 1,
                    ("command", Outcome.FAILED): 1,
                    ("command", Outcome.HANDLED): 1,
                }
                await cloud.link.publish(command, b"bug")
                with pytest.raises(ZeroDivisionError):
                    await task
                assert not own.link.connected

                async def willed() -> bool:
                    return [one.payload for one in cloud.received] == [b"will"]

                await eventually(willed)

    asyncio.run(main())


def test_overflow_is_counted_and_what_came_before_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1") as engine, running("embedded", tmp_path, engine) as site:
            gate = asyncio.Event()
            handled: list[bytes] = []

            async def slow(message: Received) -> None:
                await gate.wait()
                handled.append(message.payload)

            command = topic("command", tenant="a", device="d1")
            own = Client(site.server("a/d1"), subscribe=(command,), handlers={"command": slow}, queue_limit=5)
            cloud = Client(site.server("cloud-core/loops"))
            async with connected(own, cloud):
                for number in range(20):
                    await cloud.link.publish(command, str(number).encode())

                async def overflown() -> bool:
                    return own.counts.get(("command", Outcome.OVERFLOW), 0) == 14

                await eventually(overflown)
                gate.set()

                async def drained() -> bool:
                    return handled == [b"0", b"1", b"2", b"3", b"4", b"5"]

                await eventually(drained)

    asyncio.run(main())


def test_without_a_broker_publishing_is_transient_and_closing_is_quick(tmp_path: Path) -> None:
    async def main() -> None:
        async with database(tmp_path, "a/d1") as engine:
            port = find_ports("127.0.0.1")
            async with running("embedded", tmp_path, engine, port=port) as site:
                own = Client(site.server("a/d1"))
                task = asyncio.create_task(own.link.run())
                await own.link.wait_connected()

            async def gone() -> bool:
                return not own.link.connected

            await eventually(gone)
            with pytest.raises(Transient):
                await own.link.publish(BIRTH, b"x")
            async with running("embedded", tmp_path, engine, port=port):
                await eventually(lambda: _is(own))
                await own.link.publish(BIRTH, b"x")
            await own.link.close()
            await task

    async def _is(client: Client) -> bool:
        return client.link.connected and client.births == 2

    asyncio.run(main())


def test_a_broker_that_answers_nothing_is_left_again(tmp_path: Path) -> None:
    async def main() -> None:
        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.append(writer)

        accepted: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(mute, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        own = Client(Server("127.0.0.1", port, "a/d1", "x"))
        own.link._timeout = 0.2
        task = asyncio.create_task(own.link.run())

        async def tried_again() -> bool:
            return len(accepted) >= 2

        await eventually(tried_again)
        assert not own.link.connected
        # Cancelled in the middle of connecting: it ends, and leaves no socket behind.
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for writer in accepted:
            writer.close()
        server.close()
        await server.wait_closed()

    asyncio.run(main())
