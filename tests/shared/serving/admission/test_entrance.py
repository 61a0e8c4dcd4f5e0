"""What the engine's entrance learns from requests, and whom it turns away."""

import asyncio
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shared.io.clock import SystemClock
from shared.protocol.errors import Overloaded, Transient
from shared.serving.answer import Request
from shared.serving.arrangement import Arrangement
from shared.serving.decide.admission import SPREAD_S, Limits
from shared.serving.decide.batching import Budget
from shared.serving.decide.concurrency import Concurrency, Why
from shared.serving.decide.cost import Cost
from shared.serving.sessions.scripted import ScriptedSession
from tests.shared.serving.bundles import TENANT, until
from tests.shared.serving.echo import INPUTS, ask, load, manifest_for, piece_of, playing, scripted


class MovedClock(SystemClock):
    """The machine's clock, moved ahead by hand."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def costing(seconds: float) -> Cost:
    """Every token takes `seconds`."""
    return Cost(per_token=seconds, observations=50, mean=seconds, mean_tokens=1.0)


@asynccontextmanager
async def blocked(*models: str, costs: float = 0.0, **options):
    """An engine whose versions of `models` compute nothing until their gates open."""
    gates = {name: threading.Event() for name in models}
    names = iter(models)
    async with scripted(playing("."), **({"budget": Budget(rows=1)} | options)) as made:
        made.asked = []
        made._sessions = lambda path, variant, arrangement: playing(".", gate=gates[next(names)])
        for name in models:
            await load(made, Path(), manifest_for(name))
            if costs:
                made._models[TENANT, name, "1.0.0"].cost = costing(costs)
        try:
            yield made, gates
        finally:
            for gate in gates.values():
                gate.set()
            await ended(made.asked)


def of(made, name: str):
    return made.load_of(TENANT, name, "1.0.0")


def asking(made, name: str, count: int, **fields) -> list[asyncio.Task]:
    """As many requests, which are waited for at the latest when the engine closes."""
    tasks = [asyncio.create_task(made.answer(ask(name, "a", **fields))) for _ in range(count)]
    made.asked += tasks
    return tasks


async def ended(tasks: list[asyncio.Task]) -> list[object]:
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_a_request_that_expired_in_the_queue_teaches_as_one_that_was_given_up_does():
    async def main():
        clock = MovedClock()
        async with blocked("m", costs=0.01, clock=clock) as (made, gates):
            first = asking(made, "m", 1)
            await until(lambda: of(made, "m").running == 1)
            late = asking(made, "m", 1, deadline=clock.monotonic() + 60)
            await until(lambda: of(made, "m").queued == 1)
            clock.ahead = 100.0
            gates["m"].set()
            (error,) = await ended(late)
            assert isinstance(error, Transient)
            await ended(first)
            model = made._models[TENANT, "m", "1.0.0"]
            assert model.limiter.concurrency.window.missed == 1

    asyncio.run(main())


async def shed_by(call) -> Overloaded:
    with pytest.raises(Overloaded) as caught:
        await call
    return caught.value


def limited(made, name: str, slots: float) -> None:
    """As if what requests took had brought the limit there."""
    limiter = made._models[TENANT, name, "1.0.0"].limiter
    limiter.concurrency = Concurrency(limit=slots)


def test_past_the_limit_one_text_and_a_list_are_told_alike_to_come_back():
    async def main():
        async with blocked("m", costs=0.001) as (made, gates):
            limited(made, "m", 8.0)
            waiting = asking(made, "m", 8)
            await until(lambda: of(made, "m").queued + of(made, "m").running == 8)
            assert of(made, "m").full
            for texts in (("a",), ("a",) * 5):
                error = await shed_by(made.answer(ask("m", *texts)))
                assert error.code == "limit"
                assert error.retry_after > 0
            gates["m"].set()
            assert not [each for each in await ended(waiting) if isinstance(each, Exception)]
            assert not of(made, "m").full
            await made.answer(ask("m", *["a"] * 20))

    asyncio.run(main())


def test_when_to_come_back_is_spread_by_the_draw_alone():
    async def main():
        draws = iter([0.0, 0.5, 0.999, 0.5])
        async with blocked("m", costs=0.1, draw=lambda: drawn[0]) as (made, _):
            drawn = [0.0]
            limited(made, "m", 2.0)
            asking(made, "m", 2)
            await until(lambda: of(made, "m").full)
            told = []
            for u in draws:
                drawn[0] = u
                told.append((await shed_by(made.answer(ask("m", "a")))).retry_after)
            assert told[1] == pytest.approx(told[3], abs=0.1)
            least = told[0]
            assert least < told[1] < told[2] <= least + max(SPREAD_S, least) + 0.1

    asyncio.run(main())


def test_a_saturated_model_leaves_room_for_another():
    async def main():
        limits = Limits(entries=12)
        async with blocked("greedy", "modest", limits=limits) as (made, gates):
            greedy = asking(made, "greedy", 30)
            await until(lambda: sum(task.done() for task in greedy) >= 18)
            assert {error.code for error in await ended([task for task in greedy if task.done()])} == {"queue-full"}
            modest = asking(made, "modest", 2)
            await until(lambda: of(made, "modest").running == 1)
            gates["modest"].set()
            assert [answer.model for answer in await ended(modest)] == ["modest"] * 2
            limited(made, "greedy", 2.0)
            assert not of(made, "modest").full

    asyncio.run(main())


def head(model: str = "", **fields) -> Request:
    """What is known of a request before its body."""
    return Request(id="r", tenant=TENANT, model=model, **fields)


def test_unread_only_what_no_body_could_save_is_turned_away():
    async def main():
        async with blocked("m", "n", costs=0.01, limits=Limits(bytes=1000)) as (made, _):
            made.activate(TENANT, {"m": "1.0.0", "n": "1.0.0"})
            now = made._clock.monotonic()
            # Idle, it reads whatever comes: its predictions must be able to be put right.
            made.early(head("m", deadline=now - 5))
            limited(made, "m", 4.0)
            asking(made, "m", 4)
            await until(lambda: of(made, "m").full)
            counted = made.registry.get_sample_value
            with pytest.raises(Overloaded) as caught:
                made.early(head("m"))
            assert caught.value.code == "limit"
            labels = {"model": "m", "version": "1.0.0", "where": "local", "outcome": "shed"}
            assert counted("tideline_requests_total", labels) == 1
            assert counted("tideline_shed_total", {"reason": "limit"}) == 1
            # Its body could name the other model, which has room; a name that nobody knows is for the route to refuse.
            made.early(head())
            made.early(head("nobody"))
            made.early(head("m", version="9.9.9"))
            limited(made, "n", 2.0)
            asking(made, "n", 3)
            await until(lambda: of(made, "n").full)
            with pytest.raises(Overloaded):
                made.early(head())
            limited(made, "m", 1000.0)
            made.early(head("m"))
            with pytest.raises(Overloaded) as caught:
                made.early(head("m", body_bytes=1001))
            assert caught.value.code == "queue-bytes"
            with pytest.raises(Overloaded) as caught:
                made.early(head("m", deadline=made._clock.monotonic() + 0.001))
            assert caught.value.code == "deadline"
            made.early(head("m", deadline=made._clock.monotonic() + 60))

    asyncio.run(main())


def test_the_limit_and_what_is_under_way_are_shown_until_the_model_is_gone():
    async def main():
        async with blocked("m", costs=0.01) as (made, gates):
            limited(made, "m", 40.0)
            waiting = asking(made, "m", 3)
            await until(lambda: of(made, "m").queued + of(made, "m").running == 3)
            labels = {"model": "m", "version": "1.0.0"}
            assert made.registry.get_sample_value("tideline_concurrency_limit", labels) == 40.0
            assert made.registry.get_sample_value("tideline_concurrency_in_flight", labels) == 3.0
            (told,) = made.entrance.story()
            assert (told["name"], told["limit"], told["in_flight"], told["least"]) == ("m", 40.0, 3.0, 2.0)
            gates["m"].set()
            await ended(waiting)
            await made.unload(TENANT, "m", "1.0.0")
            assert made.registry.get_sample_value("tideline_concurrency_limit", labels) is None
            assert made.entrance.story() == []

    asyncio.run(main())


def test_a_version_that_is_arranged_anew_is_limited_anew():
    async def main():
        async with blocked("m", costs=0.01) as (made, _):
            limited(made, "m", 40.0)
            model = made._models[TENANT, "m", "1.0.0"]
            assert (model.limiter.capacity.least, model.limiter.limit) == (2.0, 40.0)
            model.arrange(Arrangement(lanes=3))
            assert model.limiter.capacity.least == 6.0
            assert model.limiter.concurrency == Concurrency()

    asyncio.run(main())


def test_requests_bring_the_limit_to_what_they_take():
    async def main():
        clock = MovedClock()

        def run(feeds):
            clock.ahead += 0.1
            return piece_of(".", feeds)

        session = ScriptedSession(run, inputs=INPUTS)
        async with scripted(session, clock=clock, budget=Budget(rows=1)) as made:
            await load(made, Path(), manifest_for("m"))
            made.asked = []
            assert of(made, "m").full is False
            # Nothing was measured yet: there is no limit, and all of them wait.
            assert not [each for each in await ended(asking(made, "m", 60)) if isinstance(each, Exception)]
            limiter = made._models[TENANT, "m", "1.0.0"].limiter
            for _ in range(6):
                ends = await ended(asking(made, "m", 60))
                assert {error.code for error in ends if isinstance(error, Exception)} == {"limit"}
                # A tenth of a second each, one at a time: some seven are answered in the time a request may take.
                assert 2.0 <= limiter.limit < 12.0
            assert limiter.concurrency.why is not Why.UNTRIED

    asyncio.run(main())
