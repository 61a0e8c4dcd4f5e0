"""The loop stays awake for a moment after a request, and no longer, and only where the next one is expected."""

import asyncio

from edge_agent.serving.activity import Activity
from edge_agent.serving.busy_poll import BusyPoll

HORIZON = 2e-4


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def wall(self):
        return self.now


class Counted(asyncio.SelectorEventLoop):
    """Counts the callbacks that were due at once."""

    soon = 0

    def call_soon(self, *args, **options):
        self.soon += 1
        return super().call_soon(*args, **options)


def turns_after(gaps, *, horizon=HORIZON, ended=True):
    """How often the loop is kept awake after requests with these gaps, while the clock stands still for 50 looks."""

    async def main():
        clock, loop = Clock(), asyncio.get_running_loop()
        activity = Activity(clock, BusyPoll(clock, horizon=horizon))
        for gap in gaps:
            clock.now += gap
            activity.began()
            clock.now += 0.001
            activity.ended()
        if not ended:
            activity.began()
        before = loop.soon
        for _ in range(50):
            await asyncio.sleep(0)
        seen = loop.soon - before - 50
        clock.now += horizon * 1.01
        await asyncio.sleep(0)
        before = loop.soon
        for _ in range(50):
            await asyncio.sleep(0)
        return seen, loop.soon - before - 50

    with asyncio.Runner(loop_factory=Counted) as runner:
        return runner.run(main())


def test_it_stays_awake_where_the_next_request_is_near_and_sleeps_when_it_does_not_come():
    seen, later = turns_after([5.0, *[1e-4] * 20])
    assert seen >= 49
    assert later <= 1


def test_it_sleeps_where_requests_are_rare_or_one_is_under_way_or_nobody_wants_it():
    assert turns_after([5.0, 1.0, 1.0])[0] <= 1
    assert turns_after([5.0, *[1e-4] * 20], ended=False)[0] <= 1
    assert turns_after([5.0, *[1e-4] * 20], horizon=0.0)[0] == 0
