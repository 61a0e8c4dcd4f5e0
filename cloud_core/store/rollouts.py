"""Rollouts: one open one per model of a tenant, by its index; who changes one has seen the revision it changes."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import sqlalchemy as sa

from cloud_core.decide.rollout_devices import HAVING, Member
from cloud_core.decide.rollout_spec import HOLDING, OPEN, Rollout, Spec, State, Verdict, Why
from cloud_core.store import events
from cloud_core.store.database import Connection
from cloud_core.store.rollout_tables import rollout_devices, rollout_verdicts, rollouts
from cloud_core.store.rows import changed, columns, every, first, insert, text_of

_T, _D, _V = rollouts, rollout_devices, rollout_verdicts
_OPEN = tuple(sorted(state.value for state in OPEN))
_HOLDING = tuple(sorted(state.value for state in HOLDING))
_HAVING = tuple(sorted(state.value for state in HAVING))


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout; `spec` is JSON text of a `Spec`."""

    tenant: str
    id: str
    model: str
    version: str
    group: str
    priority: int
    spec: str
    state: State
    why: Why
    wave: int
    approved: int
    excused: int
    holds: bool
    revision: int
    created_by: str
    created_at: float
    changed_at: float
    finished_at: float | None

    @property
    def rollout(self) -> Rollout:
        """What is decided about."""
        return Rollout(
            id=self.id,
            spec=msgspec.json.decode(self.spec, type=Spec),
            state=self.state,
            changed_at=self.changed_at,
            wave=self.wave,
            approved=self.approved,
            excused=self.excused,
            why=self.why,
        )


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One device that is given a version by a rollout of a group."""

    device: str
    group: str
    model: str
    version: str
    spec: str


async def create(
    connection: Connection, tenant: str, id_: str, spec: Spec, *, created_by: str, now: float
) -> Stored | None:
    """A new rollout, running; None where one of the same model is open."""
    values = {
        "tenant": tenant,
        "id": id_,
        "model": spec.model,
        "version": spec.version,
        "group": spec.group,
        "priority": spec.priority,
        "spec": text_of(spec),
        "state": State.RUNNING.value,
        "why": Why.STARTED.value,
        "wave": 0,
        "approved": 0,
        "excused": -1,
        "holds": True,
        "revision": 1,
        "created_by": created_by,
        "created_at": now,
        "changed_at": now,
    }
    if await changed(connection, insert(connection, _T).values(**values).on_conflict_do_nothing()) == 0:
        return None
    await events.append(connection, tenant, kind="created", resource="rollouts", name=id_, now=now)
    return await get(connection, tenant, id_)


async def get(connection: Connection, tenant: str, id_: str, *, lock: bool = False) -> Stored | None:
    """One rollout. `lock` keeps it as it is until this transaction ends."""
    statement = _own(tenant).where(_T.c.id == id_)
    return await first(connection, statement.with_for_update() if lock else statement, Stored)


async def page(
    connection: Connection, tenant: str, *, before: tuple[float, str] | None = None, limit: int = 100
) -> list[Stored]:
    """Rollouts, newest first, from the one behind the place `before`."""
    statement = _own(tenant)
    if before is not None:
        statement = statement.where(sa.tuple_(_T.c.created_at, _T.c.id) < before)
    return await every(connection, statement.order_by(_T.c.created_at.desc(), _T.c.id.desc()).limit(limit), Stored)


async def open_everywhere(connection: Connection) -> list[Stored]:
    """Every open rollout of every tenant: those of the highest priority first, then the oldest."""
    statement = sa.select(*columns(_T, Stored)).where(_T.c.state.in_(_OPEN))
    return await every(connection, statement.order_by(_T.c.priority.desc(), _T.c.created_at, _T.c.id), Stored)


async def open_in(connection: Connection, tenant: str) -> list[Stored]:
    """The open rollouts of a tenant, oldest first."""
    return await every(connection, _own(tenant).where(_T.c.state.in_(_OPEN)).order_by(_T.c.created_at, _T.c.id), Stored)


async def holding(connection: Connection, tenant: str) -> list[Stored]:
    """The rollouts of a tenant that give devices their version, oldest first."""
    own = _own(tenant).where(_T.c.state.in_(_HOLDING), _T.c.holds)
    return await every(connection, own.order_by(_T.c.created_at, _T.c.id), Stored)


async def held(connection: Connection, tenant: str) -> list[Held]:
    """Every device that is given a version by a rollout, oldest rollout first: a later one counts more."""
    joined = _T.join(_D, sa.and_(_D.c.tenant == _T.c.tenant, _D.c.rollout == _T.c.id))
    statement = (
        sa.select(_D.c.device, _T.c.group, _T.c.model, _T.c.version, _T.c.spec)
        .select_from(joined)
        .where(_T.c.tenant == tenant, _T.c.state.in_(_HOLDING), _T.c.holds, _D.c.state.in_(_HAVING))
        .order_by(_T.c.created_at, _T.c.id, _D.c.device)
    )
    return await every(connection, statement, Held)


async def named(connection: Connection) -> list[tuple[str, str, str]]:
    """(tenant, model, version) of everything a rollout of any tenant gives to devices."""
    wanted = sa.and_(_T.c.state.in_(_HOLDING), _T.c.holds)
    rows = await connection.execute(sa.select(_T.c.tenant, _T.c.model, _T.c.version).where(wanted).distinct())
    return [(tenant, model, version) for tenant, model, version in rows.all()]


async def put(connection: Connection, tenant: str, rollout: Rollout, *, revision: int, now: float) -> bool:
    """Where the rollout stands from now on; False where it is not at `revision` any more, and nothing was written."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.id == rollout.id, _T.c.revision == revision)
    values = {
        "state": rollout.state.value,
        "why": rollout.why.value,
        "wave": rollout.wave,
        "approved": rollout.approved,
        "excused": rollout.excused,
        "changed_at": rollout.changed_at,
        "finished_at": None if rollout.state in OPEN else now,
        "revision": revision + 1,
    }
    if await changed(connection, sa.update(_T).where(own).values(**values)) == 0:
        return False
    data = {"state": rollout.state.value, "wave": rollout.wave, "why": rollout.why.value}
    await events.append(connection, tenant, kind="updated", resource="rollouts", name=rollout.id, now=now, data=data)
    return True


async def release(connection: Connection, tenant: str, group: str, *, model: str | None = None) -> None:
    """Devices no longer keep what aborted rollouts of a group gave them: of one model, or of all."""
    own = sa.and_(_T.c.tenant == tenant, _T.c.group == group, _T.c.state == State.ABORTED.value, _T.c.holds)
    if model is not None:
        own = sa.and_(own, _T.c.model == model)
    await connection.execute(sa.update(_T).where(own).values(holds=False, revision=_T.c.revision + 1))


async def members(connection: Connection, tenant: str, id_: str) -> dict[str, Member]:
    """The devices that came in, by name."""
    own = sa.and_(_D.c.tenant == tenant, _D.c.rollout == id_)
    rows = await connection.execute(sa.select(_D.c.device, _D.c.member).where(own).order_by(_D.c.device))
    return {device: msgspec.json.decode(text, type=Member) for device, text in rows.all()}


async def states(connection: Connection, tenant: str, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many devices of each rollout are in which state."""
    own = sa.and_(_D.c.tenant == tenant, _D.c.rollout.in_(list(ids)))
    statement = sa.select(_D.c.rollout, _D.c.state, sa.func.count()).where(own).group_by(_D.c.rollout, _D.c.state)
    found: dict[str, dict[str, int]] = {id_: {} for id_ in ids}
    for id_, state, count in (await connection.execute(statement)).all():
        found[id_][state] = count
    return found


async def busy(connection: Connection, tenant: str, others: Iterable[str]) -> frozenset[str]:
    """Devices that these rollouts are changing now."""
    own = sa.and_(_D.c.tenant == tenant, _D.c.rollout.in_(list(others)), _D.c.state == "updating")
    return frozenset((await connection.execute(sa.select(_D.c.device).where(own))).scalars())


async def put_members(connection: Connection, tenant: str, id_: str, changed_members: Sequence[Member]) -> None:
    """These devices stand so from now on."""
    if not changed_members:
        return
    statement = insert(connection, _D)
    statement = statement.on_conflict_do_update(
        index_elements=["tenant", "rollout", "device"],
        set_={"state": statement.excluded.state, "member": statement.excluded.member},
    )
    values: list[Mapping[str, object]] = [
        {"tenant": tenant, "rollout": id_, "device": one.device, "state": one.state.value, "member": text_of(one)}
        for one in changed_members
    ]
    await connection.execute(statement, values)


async def add_verdict(connection: Connection, tenant: str, id_: str, verdict: Verdict) -> None:
    """Keep a verdict, for ever."""
    await connection.execute(sa.insert(_V).values(tenant=tenant, rollout=id_, verdict=text_of(verdict)))


async def verdicts(connection: Connection, tenant: str, id_: str) -> list[Verdict]:
    """Every verdict about a rollout, oldest first."""
    own = sa.and_(_V.c.tenant == tenant, _V.c.rollout == id_)
    rows = await connection.execute(sa.select(_V.c.verdict).where(own).order_by(_V.c.id))
    return [msgspec.json.decode(text, type=Verdict) for text in rows.scalars()]


def _own(tenant: str) -> sa.Select[tuple[object, ...]]:
    return sa.select(*columns(_T, Stored)).where(_T.c.tenant == tenant)
