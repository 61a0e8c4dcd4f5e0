"""A whole load: a ladder of clients, or the rates asked for, and the search for the largest rate that holds a P99."""

import resource
from collections.abc import Awaitable, Callable

import msgspec

from cloud_core.ctl.load.closed import closed_loop
from cloud_core.ctl.load.cpu import Cpu
from cloud_core.ctl.load.open import open_loop
from cloud_core.ctl.load.plan import Plan
from cloud_core.ctl.progress import Steps
from cloud_core.decide.capacity import Held, Knee, Step, knee, largest, next_rate
from shared.protocol.errors import Refused, TidelineError

CONNECTIONS = 1000
"""The most an open loop opens."""
TRIES = 5
"""About how many rates the search tries: each halves what is not known."""
_SPARE_FILES = 64


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure: `rates` requests per second, or `clients` where there are none. `held`: whether a P99 is asked for."""

    clients: tuple[int, ...]
    rates: tuple[float, ...] = ()
    is_poisson: bool = False
    held: bool = False


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a load found. `stopped`: why it ended before its last step."""

    steps: tuple[Step, ...]
    knee: Knee | None = None
    held: Held | None = None
    stopped: str | None = None


def allow_files(connections: int) -> None:
    """Let this process have as many connections.

    Raises:
        Refused: the system does not let it.

    """
    wanted = connections + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            allowed = f"at most {hard - _SPARE_FILES} with this user's limit of open files"
            raise Refused("too many connections", field="--clients", value=connections, allowed=allowed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def measure(plan: Plan, wish: Wish, cpu: Cpu, steps: Steps, ask: Callable[[], Awaitable[None]]) -> Found:
    """Run every step, one after the other; `ask` sends one request and waits for its answer.

    Each step begins with it, so that none pays for what the one before has left behind: by then a server is through with that.

    Raises:
        Refused, Corrupt: the first request was refused, or what answers is no such server.
        Transient: it was not answered, or not even the first step's clients could connect.

    """
    done: list[Step] = []
    tried: list[Step] = []
    total = (len(wish.rates) or len(wish.clients)) + (TRIES if wish.held and not wish.rates else 0)

    async def step(rate: float | None, clients: int) -> None:
        what = f"{clients} clients" if rate is None else f"{rate:.1f} requests/s"
        steps.step(what, min(0.99, len(done) / total), f"{done[-1].throughput:.0f} answers/s" if done else "")
        await ask()
        if rate is None:
            done.append(await closed_loop(plan, clients, cpu))
        else:
            tried.append(await open_loop(plan, rate, cpu, connections=clients, is_poisson=wish.is_poisson))
            done.append(tried[-1])

    stopped: str | None = None
    try:
        for rate in wish.rates:
            await step(rate, CONNECTIONS)
        for clients in () if wish.rates else wish.clients:
            await step(None, clients)
        peak = max((each.throughput for each in done if each.rate is None), default=0.0)
        while wish.held and (sought := next_rate(tried, peak)) is not None:
            await step(sought, CONNECTIONS)
    except TidelineError as error:
        if not done:
            raise
        # What was found until then was found.
        stopped = error.message
    ladder = [each for each in done if each.rate is None]
    return Found(
        steps=tuple(done),
        knee=None if wish.rates else knee(ladder),
        held=largest(tried) if wish.held else None,
        stopped=stopped,
    )
