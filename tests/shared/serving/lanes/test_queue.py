import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.io.clock import SystemClock
from shared.protocol.errors import Transient, Unavailable
from shared.serving.answer import Text, Timing
from shared.serving.decide.admission import Admitted, Ask
from shared.serving.decide.batching import Budget
from shared.serving.decide.cost import Cost, observed
from shared.serving.lanes.entry import Entry
from shared.serving.lanes.queue import BatchQueue
from shared.serving.lanes.sinks import Gathering
from shared.serving.tasks.task import Prepared


class HandClock(SystemClock):
    """Monotonic time that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Lane:
    """Remembers whether it was interrupted."""

    def __init__(self) -> None:
        self.interrupted = False

    def interrupt(self) -> None:
        self.interrupted = True

    def resume(self) -> None:
        self.interrupted = False


LANE = Lane()


def admitted(tokens: int = 10, entries: int = 1, size: int = 7) -> Admitted:
    return Admitted(ask=Ask(entries=entries, tokens=tokens, bytes=size), predicted=0.0)


def entry(sink, tokens: int = 10, index: int = 0, rows: int = 1) -> Entry:
    return Entry(Prepared(tokens=tokens, rows=rows, data=None), sink, index)


def queue_of(clock, **budget) -> BatchQueue:
    return BatchQueue(clock=clock, loop=asyncio.get_running_loop(), budget=Budget(**budget))


def test_expired_entries_are_dropped_before_compute_with_a_deadline_error():
    async def main():
        clock = HandClock()
        queue = queue_of(clock)
        late, fine = Gathering(1), Gathering(1)
        with queue.reserve(admitted()) as one, queue.reserve(admitted()) as two:
            queue.submit(one, [entry(late)], deadline=101.0)
            queue.submit(two, [entry(fine)], deadline=200.0)
            clock.now = 150.0
            taken = await asyncio.to_thread(queue.take, LANE)
            assert [each.sink for each in taken] == [fine]
            with pytest.raises(Transient) as caught:
                await late.future
            assert caught.value.why is Unavailable.DEADLINE

    asyncio.run(main())


def test_take_skips_a_queue_of_only_expired_entries_and_waits_on():
    async def main():
        clock = HandClock()
        queue = queue_of(clock)
        sink = Gathering(1)
        with queue.reserve(admitted()) as permit:
            queue.submit(permit, [entry(sink)], deadline=100.0)
            taking = asyncio.create_task(asyncio.to_thread(queue.take, LANE))
            assert isinstance((await asyncio.gather(sink.future, return_exceptions=True))[0], Transient)
            with queue.reserve(admitted()) as other:
                queue.submit(other, [entry(Gathering(1))])
                assert len(await taking) == 1

    asyncio.run(main())


def test_a_permit_gives_everything_back_and_takes_its_waiting_entries_along():
    async def main():
        queue = queue_of(SystemClock())
        cost = Cost()
        with queue.reserve(admitted(tokens=50)) as permit:
            load = queue.load(cost, now=0.0)
            assert (load.entries, load.tokens, load.bytes) == (1, 50, 7)
            queue.submit(permit, [entry(Gathering(1), tokens=30)])
            load = queue.load(cost, now=0.0)
            assert (load.entries, load.tokens, load.bytes) == (1, 30, 7)
        load = queue.load(cost, now=0.0)
        assert (load.entries, load.tokens, load.bytes) == (0, 0, 0)
        await asyncio.wait_for(queue.idle(), 1)
        queue.close()
        assert queue.take(LANE) is None

    asyncio.run(main())


def test_every_row_of_an_entry_counts():
    async def main():
        queue = queue_of(HandClock(), rows=8, tokens=1000)
        cost = Cost()
        for tokens in (10, 100, 1000, 20, 200):
            cost = observed(cost, tokens, tokens * 0.001 + 0.5)
        with queue.reserve(admitted()) as one, queue.reserve(admitted()) as two:
            queue.submit(one, [entry(Gathering(1), tokens=10, rows=20)])
            queue.submit(two, [entry(Gathering(1), tokens=10)])
            load = queue.load(cost, now=100.0)
            assert (load.entries, load.tokens) == (2, 210)
            # 21 rows are three batches of 8.
            assert 1.65 < load.expected_wait < 1.75
            assert len(await asyncio.to_thread(queue.take, LANE)) == 1
            load = queue.load(cost, now=100.0)
            assert (load.entries, load.tokens) == (2, 210)
            assert 0.65 + 0.45 < load.expected_wait < 0.75 + 0.55
        queue.close()

    asyncio.run(main())


def test_close_fails_what_waits_and_wakes_the_worker():
    async def main():
        queue = queue_of(SystemClock())
        woken = threading.Event()

        def work():
            assert queue.take(LANE) is None
            woken.set()

        thread = threading.Thread(target=work)
        thread.start()
        queue.close()
        assert await asyncio.to_thread(woken.wait, 5)
        thread.join()
        with queue.reserve(admitted()) as permit:
            with pytest.raises(Transient) as caught:
                queue.submit(permit, [entry(Gathering(1))])
            assert caught.value.why is Unavailable.NOT_READY

    asyncio.run(main())


def test_entries_waiting_at_close_are_told():
    async def main():
        queue = queue_of(SystemClock())
        sink = Gathering(1)
        with queue.reserve(admitted()) as permit:
            queue.submit(permit, [entry(sink)])
            queue.close()
            (error,) = await asyncio.gather(sink.future, return_exceptions=True)
            assert isinstance(error, Transient)

    asyncio.run(main())


def test_expected_wait_counts_what_runs_and_what_waits():
    async def main():
        clock = HandClock()
        queue = queue_of(clock, rows=1, tokens=1000)
        cost = Cost()
        for tokens in (10, 100, 1000, 20, 200):
            cost = observed(cost, tokens, tokens * 0.001)
        with queue.reserve(admitted(tokens=200, entries=2)) as permit:
            queue.submit(permit, [entry(Gathering(2), tokens=100, index=i) for i in range(2)])
            before = queue.load(cost, now=clock.now).expected_wait
            assert 0.18 < before < 0.22
            await asyncio.to_thread(queue.take, LANE)
            clock.now += 0.05
            after = queue.load(cost, now=clock.now).expected_wait
            assert 0.13 < after < 0.17
            clock.now += 60
            # The batch that runs is late; it is expected any moment, not in the past.
            assert 0.08 < queue.load(cost, now=clock.now).expected_wait < 0.12

    asyncio.run(main())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=40))
def test_every_entry_is_taken_or_abandoned_exactly_once(items):
    async def main():
        queue = queue_of(SystemClock(), tokens=120, rows=4)
        permits = []
        abandoned, kept = set(), set()
        for number, (tokens, abandon) in enumerate(items):
            permit = queue.reserve(admitted(tokens=1))
            queue.submit(permit, [entry(Gathering(1), tokens=tokens, index=number)])
            permits.append(permit)
            (abandoned if abandon else kept).add(number)
        for number in abandoned:
            permits[number].__exit__(None, None, None)
        taken = []
        while len(taken) < len(kept):
            batch = queue.take(LANE)
            assert len(batch) * max(each.prepared.tokens for each in batch) <= 120 or len(batch) == 1
            taken += [each.index for each in batch]
        assert sorted(taken) == sorted(kept)
        assert queue.depth == 0
        queue.close()

    asyncio.run(main())


def test_pieces_of_generated_text_are_joined():
    async def main():
        sink = Gathering(1)
        sink.deliver(0, Text(text="a", tokens=1, prompt_tokens=3), Timing(), final=False)
        sink.deliver(0, Text(text="b", tokens=1, finish="stop"), Timing(queue=1), final=True)
        (text,) = await sink.future
        assert (text.text, text.tokens, text.prompt_tokens, text.finish) == ("ab", 2, 3, "stop")
        assert sink.timing.queue == 1

    asyncio.run(main())
