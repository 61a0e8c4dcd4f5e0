"""What the engine does around a session that raises, streams, blocks or is slow."""

import asyncio
import threading
from pathlib import Path

import pytest

from shared.io.clock import SystemClock
from shared.protocol.errors import Corrupt, Overloaded, Refused, Transient, Unavailable
from shared.protocol.reported import ModelState
from shared.serving.decide.admission import Limits
from shared.serving.sessions.scripted import ScriptedSession
from tests.shared.serving.bundles import TENANT, until
from tests.shared.serving.echo import INPUTS, ask, load, manifest_for, piece_of, playing, scripted


def test_a_session_that_raises_fails_its_own_batch_only():
    async def main():
        def script(feeds):
            if "bad" in feeds["texts"]:
                raise ValueError("boom")
            return piece_of(".", feeds)

        async with scripted(ScriptedSession(script, inputs=INPUTS)) as made:
            await load(made, Path(), manifest_for())
            assert (await made.answer(ask("gen", "a"))).results[0].text == "."
            with pytest.raises(Corrupt, match="boom"):
                await made.answer(ask("gen", "bad"))
            assert (await made.answer(ask("gen", "a"))).results[0].text == "."
            assert any(line["event"] == "batch failed" for line in made.lines)

    asyncio.run(main())


def test_text_streams_piece_by_piece_while_it_is_computed():
    async def main():
        gate = threading.Event()
        session = playing("你", "好", ".", gate=gate)
        async with scripted(session) as made:
            await load(made, Path(), manifest_for())
            pieces = made.stream(ask("gen", "a"))
            waiting = asyncio.ensure_future(anext(pieces))
            await asyncio.to_thread(session.started.wait, 5)
            assert not waiting.done()
            gate.set()
            assert (await waiting).results[0].text == "你"
            rest = [piece.results[0] async for piece in pieces]
            assert [(piece.text, piece.finish) for piece in rest] == [("好", None), (".", "stop")]
            (whole,) = (await made.answer(ask("gen", "a"))).results
            assert (whole.text, whole.tokens, whole.finish) == ("你好.", 3, "stop")

    asyncio.run(main())


def test_a_stream_that_is_left_ends_the_computation():
    async def main():
        gate = threading.Event()
        session = playing(*("x" * 1000), ".", gate=gate)
        async with scripted(session) as made:
            await load(made, Path(), manifest_for())
            pieces = made.stream(ask("gen", "a"))
            waiting = asyncio.ensure_future(anext(pieces))
            await asyncio.to_thread(session.started.wait, 5)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            gate.set()
            await until(lambda: made.load_of(TENANT, "gen", "1.0.0").running == 0)
            assert len(session.runs) < 1000
            with pytest.raises(Refused):
                await anext(made.stream(ask("gen", "a", "b")))

    asyncio.run(main())


def test_cancelled_and_late_requests_are_never_computed():
    async def main():
        gate = threading.Event()
        session = playing(".", gate=gate)
        async with scripted(session) as made:
            await load(made, Path(), manifest_for())
            first = asyncio.ensure_future(made.answer(ask("gen", "first")))
            await asyncio.to_thread(session.started.wait, 5)
            gone = asyncio.ensure_future(made.answer(ask("gen", "gone")))
            late = asyncio.ensure_future(made.answer(ask("gen", "late", deadline=SystemClock().monotonic() + 0.02)))
            with pytest.raises(Transient) as caught:
                await late
            assert caught.value.why is Unavailable.DEADLINE
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            gate.set()
            await first
            assert len(session.runs) == 1
            assert made.load_of(TENANT, "gen", "1.0.0").queued == 0
            counted = {
                sample.labels["outcome"]: sample.value
                for metric in made.registry.collect() if metric.name == "tideline_requests"
                for sample in metric.samples if sample.name.endswith("_total")
            }  # fmt: skip
            assert counted == {"ok": 1, "deadline-missed": 1, "cancelled": 1}

    asyncio.run(main())


def test_requests_are_shed_by_bounds_and_by_deadline():
    async def main():
        gate = threading.Event()
        session = playing(".", gate=gate)
        async with scripted(session, limits=Limits(entries=2)) as made:
            await load(made, Path(), manifest_for())
            running = [asyncio.ensure_future(made.answer(ask("gen", "a"))) for _ in range(2)]
            await asyncio.to_thread(session.started.wait, 5)
            with pytest.raises(Overloaded) as caught:
                await made.answer(ask("gen", "b"))
            assert caught.value.code == "queue-full"
            assert caught.value.retry_after > 0
            gate.set()
            await asyncio.gather(*running)
            with pytest.raises(Overloaded) as caught:
                await made.answer(ask("gen", "b", deadline=SystemClock().monotonic() - 1))
            assert caught.value.code == "deadline"

    asyncio.run(main())


def test_unload_lets_what_waits_finish_then_ends_the_thread():
    async def main():
        # Threads that other tests abandoned in the middle of a batch may still be ending.
        others = set(threading.enumerate())
        gate = threading.Event()
        session = playing(".", gate=gate)
        async with scripted(session) as made:
            await load(made, Path(), manifest_for())
            running = asyncio.ensure_future(made.answer(ask("gen", "a")))
            await asyncio.to_thread(session.started.wait, 5)
            unloading = asyncio.ensure_future(made.unload(TENANT, "gen", "1.0.0"))
            await until(lambda: made.models()[0].state is ModelState.DRAINING)
            with pytest.raises(Transient):
                await made.answer(ask("gen", "b"))
            gate.set()
            assert (await running).results[0].text == "."
            await unloading
            assert session.closed
            assert made.models() == []
            assert not [t for t in set(threading.enumerate()) - others if t.name.startswith("gen@")]

    asyncio.run(main())


def test_measuring_a_large_request_never_crowds_out_those_who_want_answers():
    async def main():
        gate = threading.Event()
        session = playing(".", gate=gate)
        async with scripted(session) as made:
            await load(made, Path(), manifest_for())
            measuring = asyncio.ensure_future(made.measure(ask("gen", *["a"] * 1000)))
            await asyncio.to_thread(session.started.wait, 5)
            load_now = made.load_of(TENANT, "gen", "1.0.0")
            assert load_now.queued + load_now.running <= 32
            gate.set()
            await measuring

    asyncio.run(main())
