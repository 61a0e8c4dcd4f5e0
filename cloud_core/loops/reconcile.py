"""Reconcile: for every tenant, snapshot -> plan -> one transaction of generations, outbox rows and events.

Level-triggered: it looks whenever something changed and every `FULL_EVERY_S` anyway; what it finds follows from the tables alone.
Events only say that it is worth looking now.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.decide import generation as decide
from cloud_core.decide.generation import Assigned, Held, Plan, PolicyDocument, Problem, Rolled, Snapshot, Step, Wish
from cloud_core.decide.rollout_spec import Spec
from cloud_core.loops.metrics import LoopMetrics
from cloud_core.store import (
    assignments,
    control,
    events,
    generations,
    groups,
    policies,
    presence,
    rollouts,
    serving,
    tenants,
)
from cloud_core.store.database import read, write
from cloud_core.store.generations import Stored
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.signing import Signer
from shared.protocol.desired import Generation, Order
from shared.protocol.errors import Transient

POLL_S = 0.25
FULL_EVERY_S = 30.0
CHUNK = 200
"""Generations per transaction, so that other writers get their turn."""
OUTCOMES = ("generation", "blocked", "online", "offline", "lost", "reported", "telemetry", "progress")
"""Kinds of events that follow from what the loops do or hear: none of them changes what a device should run."""


class Made(NamedTuple):
    """A generation that was just made: whose, which, when."""

    tenant: str
    device: str
    order: Order
    at: float


class Reconcile:
    """Owner of the rhythm and of what was last complained about."""

    def __init__(
        self,
        engine: AsyncEngine,
        signer: Signer,
        *,
        valid: float,
        made: Callable[[Sequence[Made]], None],
        metrics: LoopMetrics,
        clock: Clock,
        log: Log,
    ) -> None:
        """`valid`: seconds a generation holds. `made` is told of generations once they are durable."""
        self._engine = engine
        self._signer = signer
        self._valid = valid
        self._made = made
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._blocked: dict[str, tuple[Problem, ...]] = {}

    async def run(self) -> None:
        """For ever: look when something changed, and every `FULL_EVERY_S`."""
        seen, full_at = 0, self._clock.monotonic()
        while True:
            try:
                async with read(self._engine) as connection:
                    newest, changed = await events.tenants_after(connection, seen, without=OUTCOMES)
                    every = await tenants.every_name(connection)
                due = self._clock.monotonic() >= full_at
                for tenant in every if due or events.EVERYONE in changed else sorted(changed & set(every)):
                    await self.reconcile(tenant)
                seen = newest
                if due:
                    full_at = self._clock.monotonic() + FULL_EVERY_S
            except Transient as error:
                self._log.warning("not reconciled", error=error.message)
            await asyncio.sleep(POLL_S)

    async def reconcile(self, tenant: str) -> int:
        """Bring one tenant's generations up to date; how many were made.

        Raises:
            Transient: the database cannot do it now; what was written holds.

        """
        snapshot = await self._snapshot(tenant)
        plan = await asyncio.to_thread(decide.plan, snapshot, now=self._clock.wall(), valid=self._valid)
        for start in range(0, len(plan.steps), CHUNK):
            await self._apply(plan.steps[start : start + CHUNK])
        await self._complain(tenant, plan)
        return len(plan.steps)

    async def _snapshot(self, tenant: str) -> Snapshot:
        async with write(self._engine) as connection:
            epoch = await control.control_epoch(connection)
        async with read(self._engine) as connection:
            newest = await generations.newest_in(connection, tenant)
            named = await policies.everywhere(connection, tenant)
            assigned = tuple(
                Assigned(
                    group=one.group,
                    models=tuple(msgspec.convert(one.wanted, tuple[Wish, ...], from_attributes=True)),
                    policy=one.policy,
                    limits=one.limits_value,
                    priority=one.priority,
                )
                for one in await assignments.everywhere(connection, tenant)
            )
            tuned = any(wish.tuned for each in assigned for wish in each.models)
            return Snapshot(
                tenant=tenant,
                epoch=epoch,
                devices=await presence.enrolled(connection, tenant),
                memberships=await groups.memberships(connection, tenant),
                assignments=assigned,
                digests={
                    (one.model, one.version): one.digest
                    for one in await serving.published(connection)
                    if one.tenant == tenant
                },
                policies={
                    name: PolicyDocument(policy=one.policy, revision=one.revision) for name, one in named.items()
                },
                held={device: _held(stored) for device, stored in newest.items()},
                hardware=await presence.hardware_classes(connection, tenant) if tuned else {},
                rolled=_rolled(await rollouts.held(connection, tenant)),
            )

    async def _apply(self, steps: Sequence[Step]) -> None:
        rows = await asyncio.to_thread(self._signed, steps)
        async with write(self._engine) as connection:
            for row in rows:
                await generations.add(connection, row)
        self._made([Made(row.tenant, row.device, row.order, row.created_at) for row in rows])
        for step in steps:
            made = step.generation
            self._metrics.generations.labels(step.reason.value).inc()
            self._log.info(
                "generation made",
                tenant=made.tenant,
                device=made.device,
                epoch=made.epoch,
                number=made.number,
                why=step.reason.value,
            )

    def _signed(self, steps: Sequence[Step]) -> list[Stored]:
        rows = []
        for step in steps:
            made = step.generation
            payload = msgspec.json.encode(made)
            rows.append(
                Stored(
                    tenant=made.tenant,
                    device=made.device,
                    epoch=made.epoch,
                    number=made.number,
                    content_digest=step.content.digest,
                    payload=payload.decode(),
                    key_id=self._signer.key_id,
                    signature=self._signer.sign(payload),
                    why=decide.why_text(step.reason, step.groups),
                    created_at=made.issued_at,
                )
            )
        return rows

    async def _complain(self, tenant: str, plan: Plan) -> None:
        """Tell of devices whose assignments contradict themselves, once per contradiction."""
        known = self._blocked.get(tenant, ())
        fresh = [problem for problem in plan.problems if problem not in known]
        self._blocked[tenant] = plan.problems
        self._metrics.blocked.set(sum(len(problems) for problems in self._blocked.values()))
        if not fresh:
            return
        async with write(self._engine) as connection:
            for problem in fresh:
                await events.append(
                    connection,
                    tenant,
                    kind="blocked",
                    resource="devices",
                    name=problem.device,
                    now=self._clock.wall(),
                    data={"field": problem.field, "message": problem.message},
                )
        for problem in fresh:
            self._log.warning("assignments contradict themselves", tenant=tenant, **msgspec.structs.asdict(problem))


def _rolled(held: Sequence[rollouts.Held]) -> dict[str, tuple[Rolled, ...]]:
    found: dict[str, tuple[Rolled, ...]] = {}
    variants = {spec: msgspec.json.decode(spec, type=Spec).variant for spec in {each.spec for each in held}}
    for each in held:
        one = Rolled(group=each.group, model=each.model, version=each.version, variant=variants[each.spec])
        found[each.device] = (*found.get(each.device, ()), one)
    return found


def _held(stored: Stored) -> Held:
    generation = msgspec.json.decode(stored.payload, type=Generation)
    return Held(
        order=stored.order,
        content=decide.content_in(generation),
        groups=decide.groups_in(stored.why),
        expires_at=generation.expires_at,
    )
