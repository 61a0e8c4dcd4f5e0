"""Requests are seen when they come and when they end, however they end."""

import asyncio

import pytest

from edge_agent.serving.activity import Activity, seen
from shared.serving.answer import Request, Response, Where


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def wall(self):
        return self.now


RESPONSE = Response(
    id="r", model="m", version="1", variant="v", digest="d", task="t", results=(), where=Where.LOCAL, why="w"
)


class Answering:
    def __init__(self, activity):
        self.activity = activity
        self.gate = asyncio.Event()

    async def answer(self, request):
        assert self.activity.quiet_s == 0.0
        await self.gate.wait()
        if request.id == "bad":
            raise ValueError
        return RESPONSE

    async def stream(self, request):
        for _ in range(3):
            assert self.activity.quiet_s == 0.0
            yield RESPONSE


def run(work):
    async def main():
        clock = Clock()
        activity = Activity(clock)
        answering = Answering(activity)
        await work(clock, activity, answering, seen(answering, activity))

    asyncio.run(asyncio.wait_for(main(), 30))


def request(name="r"):
    return Request(id=name, tenant="t", model="m", texts=("x",))


def test_it_is_quiet_from_the_end_of_the_last_of_all_requests():
    async def work(clock, activity, answering, answer):
        clock.now = 5.0
        assert activity.quiet_s == 5.0
        both = [asyncio.create_task(answer.answer(request(name))) for name in ("r", "bad")]
        await asyncio.sleep(0)
        clock.now = 9.0
        assert activity.quiet_s == 0.0
        answering.gate.set()
        assert await both[0] is RESPONSE
        with pytest.raises(ValueError):
            await both[1]
        await activity.idle()
        clock.now = 12.0
        assert activity.quiet_s == 3.0

    run(work)


def test_a_request_that_is_given_up_is_over():
    async def work(clock, activity, answering, answer):
        task = asyncio.create_task(answer.answer(request()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        clock.now = 1.0
        assert activity.quiet_s == 1.0

    run(work)


def test_a_stream_is_seen_until_its_end_or_its_closing():
    async def work(clock, activity, answering, answer):
        assert len([piece async for piece in answer.stream(request())]) == 3
        pieces = answer.stream(request())
        await anext(pieces)
        clock.now = 1.0
        assert activity.quiet_s == 0.0
        await pieces.aclose()
        clock.now = 2.0
        assert activity.quiet_s == 1.0

    run(work)


def test_what_is_to_be_interrupted_hears_of_a_request_before_it_is_answered():
    async def work(clock, activity, answering, answer):
        heard = []
        with activity.interrupting(lambda: heard.append(answering.gate.is_set())):
            task = asyncio.create_task(answer.answer(request()))
            await asyncio.sleep(0)
            assert heard == [False]
        answering.gate.set()
        await task
        await answer.answer(request())
        assert heard == [False]

    run(work)
