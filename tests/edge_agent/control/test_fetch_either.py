"""HTTP where it is there; MQTT once HTTP has been away for long enough, and only while a broker is there."""

import asyncio

import pytest

from edge_agent.control.fetch_either import AGAIN_S, GONE_S, EitherSource
from shared.protocol.errors import Refused, Transient, Unavailable
from tests.cloud_core.broker.brokers import LOG


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def wall(self):
        return self.now


class Source:
    grain = 7

    def __init__(self):
        self.error = None
        self.first = b""
        self.asked = 0

    async def get(self, path, keep, *, limit, begin=0):
        self.asked += 1
        if self.first:
            await keep(self.first)
        if self.error is not None:
            raise self.error
        await keep(b"all")


GONE = Transient("nobody there", why=Unavailable.UNREACHABLE)


def scene(work):
    http, mqtt, clock, there = Source(), Source(), Clock(), [True]
    either = EitherSource(http, mqtt, connected=lambda: there[0], clock=clock, log=LOG)

    async def get():
        pieces = []

        async def keep(piece):
            pieces.append(piece)

        await either.get("/x", keep, limit=10)
        return b"".join(pieces)

    asyncio.run(work(http, mqtt, clock, there, get))


def test_http_is_left_only_after_a_while_and_tried_again_later():
    async def work(http, mqtt, clock, there, get):
        http.error = GONE
        with pytest.raises(Transient):
            await get()
        clock.now += GONE_S
        assert await get() == b"all"
        assert (http.asked, mqtt.asked) == (2, 1)
        assert await get() == b"all"
        assert (http.asked, mqtt.asked) == (2, 2)
        http.error = None
        clock.now += AGAIN_S
        assert await get() == b"all"
        assert (http.asked, mqtt.asked) == (3, 2)
        http.error = GONE
        with pytest.raises(Transient):
            await get()

    scene(work)


def test_without_a_broker_there_is_only_http():
    async def work(http, mqtt, clock, there, get):
        http.error, there[0] = GONE, False
        with pytest.raises(Transient):
            await get()
        clock.now += GONE_S
        with pytest.raises(Transient):
            await get()
        assert mqtt.asked == 0

    scene(work)


@pytest.mark.parametrize(
    ("error", "first"),
    [
        (GONE, b"so"),
        (Transient("busy", why=Unavailable.UNREACHABLE, retry_after=3.0), b""),
        (Transient("full", why=Unavailable.STORAGE), b""),
        (Refused("no"), b""),
    ],
    ids=["it broke on the way", "it says when", "our own disk", "it says no"],
)
def test_a_server_that_answers_is_there(error, first):
    async def work(http, mqtt, clock, there, get):
        http.error, http.first = error, first
        for _ in range(3):
            with pytest.raises(type(error)):
                await get()
            clock.now += GONE_S
        assert mqtt.asked == 0

    scene(work)
