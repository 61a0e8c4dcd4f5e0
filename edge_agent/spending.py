"""Builds the device's one cloud target, with what was spent of its budget before the agent started."""

import random
from contextlib import AsyncExitStack
from pathlib import Path

from edge_agent.config import Settings
from edge_agent.control.applied import PolicyHolder
from edge_agent.decide.budget import Spent
from edge_agent.serving.cloud import CloudTarget
from edge_agent.serving.ledger import Ledger
from shared.io.clock import Clock
from shared.io.program import Program


def target_of(
    settings: Settings, holder: PolicyHolder, program: Program, undo: AsyncExitStack, *, clock: Clock, kept: Path | None
) -> CloudTarget:
    """`kept`: the state folder; None where nothing is written, since there is no cloud."""
    ledger = None if kept is None else Ledger(kept, program.log)
    target = CloudTarget(
        clock=clock,
        draw=random.random,
        metered=settings.metered,
        price=lambda: holder.policy.cloud_budget.price_per_request or 0.0,
        spent=Spent() if ledger is None else ledger.read(),
    )
    if ledger is not None:
        keeper = ledger

        async def keep() -> None:
            await keeper.keep_forever(lambda: target.spent)

        async def keep_last() -> None:
            await keeper.keep(target.spent)

        program.task("ledger", keep)
        undo.push_async_callback(keep_last)
    return target
