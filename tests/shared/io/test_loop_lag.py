"""The lag is what a blocked loop makes it, fades, and is not watched for nobody."""

import asyncio
import time

from shared.io.clock import SystemClock
from shared.io.loop_lag import EVERY_S, QUIET_BEATS, STANDING_BEATS, TURNS_AHEAD, LoopLag
from tests.shared.serving.bundles import until

BLOCKED_S = 0.2


def test_a_blocked_loop_is_late_and_recovers():
    async def main():
        lag = LoopLag(SystemClock())
        assert lag.turn() == 0.0
        time.sleep(BLOCKED_S)
        # In this very turn, before any timer ran.
        assert lag.turn() >= BLOCKED_S - EVERY_S
        assert lag.ahead() >= TURNS_AHEAD * (BLOCKED_S - EVERY_S)
        # Let the beat run that was due.
        await asyncio.sleep(EVERY_S)
        assert lag.turn() > 0.0
        await until(lambda: lag.turn() < BLOCKED_S / 4)

    asyncio.run(main())


def test_lateness_stands_only_after_several_late_beats_and_one_in_time_ends_it():
    async def main():
        lag = LoopLag(SystemClock())
        lag.turn()
        for _ in range(STANDING_BEATS):
            assert lag.standing() < BLOCKED_S / 2
            time.sleep(BLOCKED_S / 2 + EVERY_S * 2)
            # The beat that was due runs in the turn after the next, in which nothing blocks.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert lag.standing() >= BLOCKED_S / 2
        await until(lambda: lag.standing() < BLOCKED_S / 2)

    asyncio.run(main())


def test_nobody_asks_and_nothing_runs():
    async def main():
        lag = LoopLag(SystemClock())
        lag.turn()
        loop = asyncio.get_running_loop()
        beats = 0
        called = loop.call_later

        def counted(*arguments):
            nonlocal beats
            beats += 1
            return called(*arguments)

        loop.call_later = counted
        async with asyncio.timeout(30):
            while lag._quiet < QUIET_BEATS:
                await asyncio.sleep(EVERY_S * 5)
        before = beats
        await asyncio.sleep(EVERY_S * 5)
        # The sleep itself is one.
        assert beats <= before + 1
        assert lag.turn() == 0.0

    asyncio.run(main())
