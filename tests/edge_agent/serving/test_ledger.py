"""A restart is no new day: what was spent of the cloud budget stays spent."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from edge_agent.config import Settings
from edge_agent.control.applied import PolicyHolder
from edge_agent.decide.budget import Spent
from edge_agent.serving import ledger
from edge_agent.serving.cloud import CloudTarget
from edge_agent.serving.ledger import FILE, Ledger
from edge_agent.spending import target_of
from shared.io.logs import build
from shared.io.program import Program
from shared.protocol.policy import CloudBudget, Policy, rules_for
from tests.cloud_core.waiting import eventually
from tests.edge_agent.control.generations import generation
from tests.scenarios.virtual_time import WALL

LOG = build("test", level="critical")
RULES = rules_for(Policy(cloud_budget=CloudBudget(per_day=10, price_per_request=0.5, price_per_day=2.5)), "mood")


class Standing:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = WALL

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def built(folder: Path, clock: Standing, undo: AsyncExitStack) -> CloudTarget:
    target = target_of(Settings(state_dir=str(folder)), holding(), Program(LOG), undo, clock=clock, kept=folder)
    target.enrolled(silence=lambda: 0.0)
    return target


def holding() -> PolicyHolder:
    holder = PolicyHolder()
    policy = Policy(cloud_budget=RULES.cloud_budget)
    holder.set(generation(policy=policy))
    return holder


def left_of(target: CloudTarget) -> int | None:
    return target.state("mood", RULES).budget_left


def send(target: CloudTarget) -> None:
    target.sent()
    target.refused()


def test_a_restart_forgets_nothing_and_another_day_begins_anew(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Standing()
        async with AsyncExitStack() as undo:
            target = built(tmp_path, clock, undo)
            assert left_of(target) == 5
            for _ in range(3):
                send(target)
        async with AsyncExitStack() as undo:
            target = built(tmp_path, clock, undo)
            assert left_of(target) == 2
            assert target.spent.price_in_day == pytest.approx(1.5)
            for _ in range(2):
                send(target)
            told = target.state("mood", RULES)
            assert (told.budget_left, told.retry_in) == (0, 86400.0 - WALL % 86400.0)
            clock.now += 86400.0
            assert left_of(target) == 5

    asyncio.run(main())


def test_an_agent_that_is_killed_forgets_a_second_at_the_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "EVERY_S", 0.01)

    async def main() -> None:
        own, now = Ledger(tmp_path, LOG), Spent(1, 2, 3, 4, 5.5)
        keeping = asyncio.create_task(own.keep_forever(lambda: now))

        async def written() -> bool:
            return (tmp_path / FILE).exists()

        await eventually(written)
        keeping.cancel()
        assert Ledger(tmp_path, LOG).read() == now

    asyncio.run(main())


def test_a_record_that_cannot_be_read_or_written_stops_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / FILE).write_bytes(b'{"minute": "x"')
        own = Ledger(tmp_path, LOG)
        assert own.read() == Spent()
        await own.keep(Spent(1, 1, 1, 1))
        assert Ledger(tmp_path, LOG).read() == Spent(1, 1, 1, 1)
        (tmp_path / "file").write_bytes(b"")
        await Ledger(tmp_path / "file", LOG).keep(Spent(2))

    asyncio.run(main())
