"""Builds what brings a device to its newest generation, and judges it there."""

import random
from collections.abc import Callable

from edge_agent.control.converge import Converger
from edge_agent.control.errand import Check, Errands
from edge_agent.control.fetch import Fetcher
from edge_agent.control.host import Disk
from edge_agent.control.probation import Probation
from edge_agent.control.stepper import Stepper
from edge_agent.control.trust import Trust
from edge_agent.parts import Core, Kept
from shared.bundle.store import ChunkStore


def converger_of(  # noqa: PLR0917
    core: Core, kept: Kept, trust: Trust, fetcher: Fetcher, changed: Callable[[], None], check: Check
) -> Converger:
    """The converger of an enrolled device; `changed` hears whenever its report would say something new, `check` trusts versions."""
    settings, clock, log = core.settings, core.clock, core.log
    disk = Disk(kept.state, ChunkStore(settings.state / "chunks"), settings.bundles)
    stepper = Stepper(
        trust.tenant,
        disk,
        Errands(trust.tenant, disk, fetcher, core.engine, core.loader, check),
        host=core.engine,
        device=core.device,
        measured=core.arrangements.advised,
        clock=clock,
        log=log,
        stepped=core.interval.stepped,
    )
    evidence = core.accounts.evidence
    return Converger(
        trust,
        stepper,
        Probation(kept.state, tallies=lambda: evidence.tallies, forget=evidence.forget, clock=clock, log=log),
        state=kept.state,
        host=core.engine,
        holder=core.holder,
        arrangements=core.arrangements,
        clock=clock,
        log=log,
        draw=random.random,
        changed=changed,
        isolation=core.standing.isolation,
        pinned=settings.pinned_models,
    )
