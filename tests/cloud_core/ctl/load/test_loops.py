"""Closed and open loops against a real server: what is counted as what, and from when."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.ctl.load.closed import closed_loop
from cloud_core.ctl.load.connection import clock
from cloud_core.ctl.load.cpu import Cpu
from cloud_core.ctl.load.open import OpenLoop, even, open_loop, poisson
from shared.io.free_ports import find_ports
from shared.protocol.errors import Refused, Transient
from shared.protocol.topics import Header
from tests.cloud_core.ctl.load.playing import plan, serving


async def well(_: web.Request) -> web.Response:
    return web.json_response({})


def test_a_closed_loop_sends_every_body_in_turn_and_counts_answers() -> None:
    bodies: Counter[bytes] = Counter()
    connections = set()

    async def answer(request: web.Request) -> web.Response:
        bodies[await request.read()] += 1
        connections.add(request.transport)
        return web.json_response({})

    async def main() -> None:
        async with serving(answer) as port:
            step = await closed_loop(plan(port, b"1", b"22", b"333"), 4, Cpu(None))
        assert step.answered == step.asked == step.inside > 0
        assert (step.refused, step.errors, step.rate, step.clients) == (0, {}, None, 4)
        assert step.p50_ms is not None
        assert step.p99_ms is not None
        assert 0 < step.p50_ms <= step.p99_ms
        assert step.client_cpu > 0
        # One connection for each client, kept.
        assert len(connections) == 4
        assert max(bodies.values()) - min(bodies.values()) <= 1

    asyncio.run(main())


@pytest.mark.parametrize("to_the_end", [False, True])
def test_what_is_under_way_at_the_end_is_waited_for(to_the_end: bool) -> None:
    served = 0

    async def main() -> None:
        release = asyncio.Event()

        async def answer(_: web.Request) -> web.Response:
            nonlocal served
            await release.wait()
            served += 1
            return web.json_response({})

        class Watched(Cpu):
            """Read for the second time when counting has ended."""

            reads = 0

            def read(self) -> float:
                self.reads += 1
                if self.reads == 2:
                    release.set()
                return super().read()

        async with serving(answer) as port:
            if to_the_end:
                asyncio.get_running_loop().call_later(0.3, release.set)
            step = await closed_loop(plan(port, seconds=0.1), 5, Watched(None), to_the_end=to_the_end)
        assert served == 5
        assert step.answered == step.asked == (5 if to_the_end else 0)

    asyncio.run(main())


def test_refusals_and_errors_are_counted_apart_and_are_no_latencies() -> None:
    turn = iter(range(10**9))

    async def answer(_: web.Request) -> web.Response:
        match next(turn) % 4:
            case 0:
                return web.json_response({}, status=429)
            case 1:
                return web.json_response({}, status=503)
            case 2:
                return web.json_response({}, headers={"Connection": "close"})
            case _:
                raise ConnectionResetError

    async def cut(request: web.Request) -> web.Response:
        try:
            return await answer(request)
        except ConnectionResetError:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

    async def main() -> None:
        async with serving(cut) as port:
            step = await closed_loop(plan(port, seconds=0.5), 3, Cpu(None))
        assert step.asked == step.answered + step.refused + sum(step.errors.values())
        assert step.answered > 0
        assert step.refused > 0
        assert set(step.errors) == {"503", "connection"}
        # Every kind came in turn.
        kinds = [step.answered, step.refused, *step.errors.values()]
        assert max(kinds) - min(kinds) <= 4

    asyncio.run(main())


def test_a_refused_client_waits_as_long_as_it_is_told() -> None:
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({}, status=429, headers={"Retry-After": "60"})

    async def main() -> None:
        async with serving(answer) as port:
            step = await closed_loop(plan(port), 3, Cpu(None))
        # At most a second, which is longer than this load.
        assert asked == 3
        assert (step.answered, step.p99_ms, step.throughput) == (0, None, 0.0)

    asyncio.run(main())


def test_an_answer_that_takes_too_long_is_an_error_and_its_client_goes_on() -> None:
    async def answer(request: web.Request) -> web.Response:
        if await request.read() == b"slow":
            await asyncio.Event().wait()
        return web.json_response({})

    async def main() -> None:
        async with serving(answer) as port:
            step = await closed_loop(plan(port, b"slow", b"fast", seconds=1.0, patience=0.1), 1, Cpu(None))
            assert step.errors["timeout"] > 0
            assert step.answered > 0
            assert set(step.errors) == {"timeout"}
            step = await open_loop(plan(port, b"slow", patience=0.1), 100.0, Cpu(None), connections=50)
            assert step.errors == {"timeout": 30}
            assert step.asked == 30

    asyncio.run(main())


def test_nobody_there_is_said() -> None:
    async def main() -> None:
        with pytest.raises(Transient, match="only 0 of 2 clients could connect"):
            await closed_loop(plan(find_ports("127.0.0.1")), 2, Cpu(None))
        step = await open_loop(plan(find_ports("127.0.0.1")), 50.0, Cpu(None), connections=5)
        assert step.errors == {"connection": step.asked}

    asyncio.run(main())


@pytest.mark.parametrize("is_poisson", [False, True])
def test_an_open_loop_counts_every_request_that_was_due(is_poisson: bool) -> None:
    served = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal served
        served += 1
        return web.json_response({})

    async def main() -> None:
        async with serving(answer) as port:
            step = await open_loop(plan(port, bound_s=30.0), 200.0, Cpu(None), connections=20, is_poisson=is_poisson)
        assert step.answered == step.asked == step.inside
        assert step.rate == 200.0
        assert served == len(list((poisson if is_poisson else even)(200.0, 0.35)))
        assert served - step.asked == sum(due < 0.05 for due in (poisson if is_poisson else even)(200.0, 0.35))
        assert 1 <= step.clients <= 20

    asyncio.run(main())


def test_latency_begins_when_a_request_was_due_not_when_it_was_sent() -> None:
    arrived: list[str] = []
    given_up: list[float] = []

    async def main() -> None:
        release = asyncio.Event()

        async def answer(request: web.Request) -> web.Response:
            arrived.append(request.headers[Header.DEADLINE_MS])
            await release.wait()
            return web.json_response({})

        seen: list[tuple[float, float, int]] = []
        async with serving(answer) as port:
            loop = OpenLoop(
                plan(port, deadline=30.0), iter([0.0, 0.0, 0.01]), lambda *end: seen.append(end), connections=1
            )
            began = clock()
            try:
                loop.start()
                while not arrived:
                    await loop.watch(clock() - began + 0.02)
                await loop.watch(0.1)
                stalled = clock() - began
                assert (len(arrived), seen) == (1, [])
                release.set()
                await loop.drain()
            finally:
                await loop.close()
        # The two that waited for the only connection are as late as the one that was stalled.
        assert [due for due, _, _ in seen] == [0.0, 0.0, 0.01]
        assert all(latency >= stalled - due - 0.005 and status == 200 for due, latency, status in seen)
        # And what is left of their deadline goes with them.
        assert int(arrived[0]) <= 30_000
        assert all(int(left) <= 30_000 - 1000 * (stalled - 0.02) for left in arrived[1:])
        given_up.extend(latency for _, latency, _ in seen)

    asyncio.run(main())
    assert len(given_up) == 3


def test_what_finds_no_connection_in_time_is_never_sent() -> None:
    arrived = 0

    async def main() -> None:
        release = asyncio.Event()

        async def answer(_: web.Request) -> web.Response:
            nonlocal arrived
            arrived += 1
            await release.wait()
            return web.json_response({})

        seen: list[int] = []
        async with serving(answer) as port:
            late = plan(port, deadline=0.05, send_within_s=0.05)
            loop = OpenLoop(late, iter([0.0] * 5), lambda _due, _latency, status: seen.append(status), connections=1)
            try:
                loop.start()
                while len(seen) < 4:
                    await loop.watch(0.0)
                    await asyncio.sleep(0.01)
                    await loop.watch(0.2)
                release.set()
                await loop.drain()
            finally:
                await loop.close()
        assert arrived == 1
        assert sorted(seen) == [-1, -1, -1, -1, 200]

    asyncio.run(main())


@given(rate=st.floats(0.5, 5000), seconds=st.floats(0.01, 5), begin=st.floats(0, 10), seed=st.integers(0, 9))
def test_arrivals_rise_within_their_span_and_are_as_many_as_the_rate_says(rate, seconds, begin, seed) -> None:
    def check(due: Iterator[float]) -> int:
        times = list(due)
        assert times == sorted(times)
        assert all(begin <= at < begin + seconds + 1 / rate for at in times)
        return len(times)

    assert check(even(rate, seconds, begin)) == round(rate * seconds)
    expected = rate * seconds
    # Eight standard deviations of a Poisson count.
    assert abs(check(poisson(rate, seconds, begin, seed=seed)) - expected) <= 8 * expected**0.5 + 8


def test_processor_time_is_of_the_tree_asked_for(tmp_path) -> None:
    with pytest.raises(Refused, match="--pid"):
        Cpu(2**22 + 1)
    own, machine = Cpu(None), Cpu(1)
    before = own.read()
    sum(i * i for i in range(2_000_000))
    assert own.read() >= before > 0
    assert machine.read() >= 0
