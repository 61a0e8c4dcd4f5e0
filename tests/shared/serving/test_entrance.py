"""What the engine's entrance learns from requests, and whom it turns away."""

import asyncio
import threading
from contextlib import asynccontextmanager
from pathlib import Path

from shared.io.clock import SystemClock
from shared.protocol.errors import Transient
from shared.serving.decide.cost import Cost
from tests.shared.serving.bundles import TENANT, until
from tests.shared.serving.echo import ask, load, manifest_for, playing, scripted


class MovedClock(SystemClock):
    """The machine's clock, moved ahead by hand."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def costing(seconds: float) -> Cost:
    """Every token takes `seconds`."""
    return Cost(slope=128 * seconds, observations=50, mean=seconds, mean_tokens=1.0)


@asynccontextmanager
async def blocked(*models: str, costs: float = 0.0, **options):
    """An engine whose versions of `models` compute nothing until their gates open."""
    gates = {name: threading.Event() for name in models}
    names = iter(models)
    async with scripted(playing("."), **options) as made:
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


def of(made, name: str):
    return made.load_of(TENANT, name, "1.0.0")


def asking(made, name: str, count: int, **fields) -> list[asyncio.Task]:
    return [asyncio.create_task(made.answer(ask(name, "a", **fields))) for _ in range(count)]


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
