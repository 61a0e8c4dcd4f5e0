"""Rollouts: for each open one, snapshot -> plan -> one transaction of what changed.

It remembers nothing that counts: killed anywhere, it goes on from the tables. A rollout that somebody changed while it was planned is
left alone, and planned anew: so a pause that was answered lets no device in. What devices should run follows in `reconcile`.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.decide.ranges import cover
from cloud_core.decide.rollout import Plan, plan
from cloud_core.decide.rollout_devices import DeviceState, Member
from cloud_core.decide.rollout_gates import LOOK_S, Evidence, evidence_of
from cloud_core.decide.rollout_spec import Rollout, Spec, State
from cloud_core.decide.rollup import Cell
from cloud_core.loops.metrics import LoopMetrics
from cloud_core.store import assignments, history, rollouts
from cloud_core.store.assignments import Wanted
from cloud_core.store.database import Connection, read, write
from cloud_core.store.history import DEVICE, KEPT_S, Found, Selector
from cloud_core.store.rollout_fleet import fleet_of
from cloud_core.store.rollouts import Stored
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.desired import Limits
from shared.protocol.errors import Transient

POLL_S = 1.0
IDLE_SHARE = 3.0
"""It rests this many times as long as a round took: a large fleet's rollouts never keep a core from the other loops."""
BASELINE_S = 6 * 3600.0
"""How far back the previous version is looked at, before the first of the compared devices changed."""
MOST_COMPARED = 200
"""Devices whose evidence is read: those that came last. More of them would say the same."""


class Rollouts:
    """Owner of the rhythm, and of when evidence was last looked at."""

    def __init__(self, engine: AsyncEngine, *, lost_after: float, metrics: LoopMetrics, clock: Clock, log: Log) -> None:
        """`lost_after`: seconds of silence after which a device counts as offline."""
        self._engine = engine
        self._lost_after = lost_after
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._looked: dict[str, float] = {}

    async def run(self) -> None:
        """For ever."""
        while True:
            began = self._clock.monotonic()
            try:
                await self.tick()
            except Transient as error:
                self._log.warning("rollouts not advanced", error=error.message)
            await asyncio.sleep(max(POLL_S, IDLE_SHARE * (self._clock.monotonic() - began)))

    async def tick(self) -> None:
        """Bring every open rollout as far as it goes now.

        Raises:
            Transient: the database cannot do it now; what was written holds.

        """
        async with read(self._engine) as connection:
            found = await rollouts.open_everywhere(connection)
        self._looked = {one.id: self._looked[one.id] for one in found if one.id in self._looked}
        counted = {one.id: await self.advance(one.tenant, one.id) for one in found}
        # With nothing awaited in between, nobody reads the half of it.
        self._metrics.rollout_devices.clear()
        for id_, states in counted.items():
            for state, count in states.items():
                self._metrics.rollout_devices.labels(id_, state.value).set(count)

    async def advance(self, tenant: str, id_: str) -> Mapping[DeviceState, int]:
        """Bring one rollout as far as it goes now, and say how many of its devices are in which state.

        Devices that another rollout is changing wait for that.
        """
        now = self._clock.wall()
        async with read(self._engine) as connection:
            stored = await rollouts.get(connection, tenant, id_)
            if stored is None:
                return {}
            rollout = stored.rollout
            held = await rollouts.members(connection, tenant, id_)
            others = [one.id for one in await rollouts.open_in(connection, tenant) if one.id != id_]
            busy = await rollouts.busy(connection, tenant, others)
            fleet = await fleet_of(
                connection, tenant, rollout.spec, came=held, busy=busy, now=now, lost_after=self._lost_after
            )
            planned = await asyncio.to_thread(plan, rollout, fleet.targets, held, now=now)
            if planned.wants_evidence and self._look_due(rollout, held, now):
                evidence = await self._evidence(connection, tenant, rollout, held, planned.wants_evidence)
                planned = await asyncio.to_thread(plan, rollout, fleet.targets, held, now=now, evidence=evidence)
                self._looked[id_] = now
        await self._write(stored, rollout, planned, now)
        members = {**held, **{member.device: member for member in planned.members}}
        return Counter(member.state for member in members.values())

    async def _write(self, stored: Stored, rollout: Rollout, planned: Plan, now: float) -> None:
        same = (planned.state, planned.wave, planned.why) == (rollout.state, rollout.wave, rollout.why)
        if same and not planned.members and planned.verdict is None:
            return
        after = msgspec.structs.replace(
            rollout,
            state=planned.state,
            wave=planned.wave,
            why=planned.why,
            changed_at=rollout.changed_at if planned.state is rollout.state else now,
        )
        async with write(self._engine) as connection:
            if not await rollouts.put(connection, stored.tenant, after, revision=stored.revision, now=now):
                return
            await rollouts.put_members(connection, stored.tenant, stored.id, planned.members)
            if planned.verdict is not None:
                await rollouts.add_verdict(connection, stored.tenant, stored.id, planned.verdict)
            if planned.state is State.SUCCEEDED:
                await _take_over(connection, stored.tenant, rollout.spec, now=now)
        if planned.verdict is not None or planned.state is not rollout.state:
            self._log.info(
                "rollout decided",
                tenant=stored.tenant,
                rollout=stored.id,
                state=planned.state.value,
                wave=planned.wave,
                why=planned.why.value,
            )

    def _look_due(self, rollout: Rollout, held: Mapping[str, Member], now: float) -> bool:
        """Once per window of evidence, and as soon as the soak is over."""
        looked = self._looked.get(rollout.id)
        if looked is None or now - looked >= LOOK_S:
            return True
        soaked = max((member.settled_at or 0.0 for member in held.values()), default=0.0) + rollout.spec.soak_s
        return looked < soaked <= now

    async def _evidence(
        self, connection: Connection, tenant: str, rollout: Rollout, held: Mapping[str, Member], names: Sequence[str]
    ) -> Evidence:
        newest = sorted(
            names, key=lambda name: (-(held[name].settled_at or 0.0), name) if name in held else (0.0, name)
        )
        compared = {name: held[name] for name in newest[:MOST_COMPARED] if name in held}
        if not compared:
            return evidence_of({})
        now, spec = self._clock.wall(), rollout.spec
        start = min(member.admitted_at for member in compared.values()) - BASELINE_S
        versions = sorted({spec.version, *(member.base for member in compared.values() if member.base is not None)})
        selector = Selector(tenant, scope=DEVICE, names=list(compared), model=spec.model, versions=versions)
        spans = cover(start, now, kept_from={seconds: now - KEPT_S[seconds] for seconds in (60, 3600)})
        found = await history.read(connection, selector, spans)
        return await asyncio.to_thread(_paired, found, compared, spec.version)


def _paired(found: Sequence[Found], compared: Mapping[str, Member], version: str) -> Evidence:
    cells = history.summed(found, lambda one: (one.name, one.key.version, one.key.place))
    pairs: dict[str, tuple[dict[str, Cell], dict[str, Cell]]] = {name: ({}, {}) for name in compared}
    for (name, ran, place), cell in cells.items():
        if ran in (compared[name].base, version):
            pairs[name][ran == version][place] = cell
    return evidence_of(pairs)


async def _take_over(connection: Connection, tenant: str, spec: Spec, *, now: float) -> None:
    """The group's assignment says from now on what the rollout gave: nothing changes on any device that has it."""
    held = await assignments.get(connection, tenant, spec.group, lock=True)
    others = [wanted for wanted in (held.wanted if held is not None else ()) if wanted.name != spec.model]
    await assignments.put(
        connection,
        tenant,
        spec.group,
        models=[*others, Wanted(name=spec.model, version=spec.version, variant=spec.variant)],
        policy=held.policy if held is not None else None,
        limits=held.limits_value if held is not None else Limits(),
        priority=held.priority if held is not None else 0,
        now=now,
    )
    await rollouts.release(connection, tenant, spec.group, model=spec.model)
