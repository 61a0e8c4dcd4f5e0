"""A rollout: which devices get the new version now, and whether it goes on, stops or goes back; with the numbers that decided. Pure.

Level-triggered: the plan follows from the snapshot, so planning again after it was applied plans nothing until something changes, and
a crash between two plans costs nothing. Invariants:

* a device comes in only while the rollout is running, in its window, within its rate, and no other rollout is changing it;
* a wave ends when its devices are done, but for a bounded share that is offline; then it soaks, then its evidence is judged;
* what is bad pauses or goes back, as the specification says. Who resumes after a bad verdict answers for that wave: it is not judged
  again. The last wave takes in those who are offline: they find the newest generation when they come back.
"""

from collections.abc import Mapping, Sequence

import msgspec

from cloud_core.decide import rollout_gates
from cloud_core.decide.rollout_devices import BAD, DeviceState, Member, Target, admitted, again, progress
from cloud_core.decide.rollout_gates import Check, Evidence, Outcome
from cloud_core.decide.rollout_spec import OPEN, Approval, OnBad, Rollout, State, Verdict, Why
from cloud_core.decide.rollout_waves import quota, room, spread
from shared.protocol.window import opens_in


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to write: `members` are those that changed. `wants_evidence`: of these devices, to plan once more with it."""

    state: State
    wave: int
    why: Why
    members: tuple[Member, ...] = ()
    verdict: Verdict | None = None
    wants_evidence: tuple[str, ...] = ()


class _View(msgspec.Struct, frozen=True):
    """One moment: the rollout, its devices as they are, and how far those are that came in."""

    rollout: Rollout
    here: Mapping[str, Target]
    moved: Mapping[str, Member]
    now: float

    def count(self, *states: DeviceState) -> int:
        return sum(1 for member in self.moved.values() if member.state in states)

    @property
    def away(self) -> list[str]:
        """Those who are offline before they are done."""
        return [
            name
            for name, member in self.moved.items()
            if member.state is DeviceState.UPDATING and self.here[name].online_since is None
        ]

    @property
    def unfinished(self) -> bool:
        """Whether somebody is to be waited for."""
        return self.count(DeviceState.WAITING, DeviceState.UPDATING) > len(self.away)

    @property
    def lacking(self) -> int:
        return quota(self.rollout.spec.waves, self.rollout.wave, len(self.here)) - len(self.moved)


def plan(
    rollout: Rollout,
    targets: Sequence[Target],
    members: Mapping[str, Member],
    *,
    now: float,
    evidence: Evidence | None = None,
) -> Plan:
    """What follows.

    Args:
        rollout: as it stands.
        targets: the devices of its group that the version fits and whose version the group decides.
        members: those that came in already, by device; whoever left the group counts no more.
        now: Unix seconds.
        evidence: what was asked for by `wants_evidence`; None lets the wave wait for it.

    """
    if rollout.state not in OPEN:
        return Plan(state=rollout.state, wave=rollout.wave, why=rollout.why)
    spec = rollout.spec
    here = {target.device: target for target in targets}
    present = {name: member for name, member in members.items() if name in here}
    if rollout.state is State.ROLLING_BACK:
        return _rolling_back(_View(rollout, here, present, now))
    moved = {name: progress(one, here[name], spec.version, spec.patience, now) for name, one in present.items()}
    planned = _planned(_View(rollout, here, moved, now), evidence)
    moved |= {member.device: member for member in planned.members}
    changed = tuple(member for name, member in sorted(moved.items()) if members.get(name) != member)
    return msgspec.structs.replace(planned, members=changed)


def _planned(view: _View, evidence: Evidence | None) -> Plan:
    """The plan, with those members alone that come in now."""
    rollout, spec = view.rollout, view.rollout.spec
    if rollout.state is State.PAUSED:
        return Plan(state=State.PAUSED, wave=rollout.wave, why=rollout.why)
    bad = State.PAUSED if spec.on_bad is OnBad.PAUSE else State.ROLLING_BACK
    if view.now > rollout.changed_at + spec.ends_within_s:
        return _decided(view, bad, Why.LATE)
    if _failing(view):
        return _decided(view, bad, Why.ERRORS)
    needed = {Approval.NONE: 0, Approval.START: 1, Approval.WAVES: rollout.wave + 1}[spec.approval]
    if rollout.approved < needed:
        return Plan(state=State.AWAITING_APPROVAL, wave=rollout.wave, why=Why.APPROVAL)
    coming = _coming(view)
    return coming if coming is not None else _soaked(view, bad, evidence)


def _coming(view: _View) -> Plan | None:
    """Who gets the version now, or what the wave waits for; None for neither."""
    spec, moved, lacking = view.rollout.spec, view.moved, max(0, view.lacking)
    due = [one for one in moved.values() if one.state is DeviceState.WAITING and view.now >= (one.retry_at or 0.0)]
    if due or lacking:
        if spec.window is not None and opens_in(spec.window, view.now) > 0:
            return _waits(view, Why.WINDOW)
        came, succeeded = [one.admitted_at for one in moved.values()], view.count(DeviceState.SUCCEEDED)
        free = room(spec.rate, came=came, succeeded=succeeded, now=view.now)
        once_more = [again(one, view.now) for one in due if not view.here[one.device].busy]
        fresh = [admitted(view.here[name], view.rollout.wave, view.now) for name in _order(view)[:lacking]]
        chosen = [*once_more, *fresh][:free]
        if chosen:
            return msgspec.structs.replace(_waits(view, Why.DEVICES), members=tuple(chosen))
        if lacking and not view.unfinished:
            return _waits(view, Why.RATE if free == 0 else Why.BUSY)
    if lacking or view.unfinished:
        return _waits(view, Why.DEVICES)
    return _waits(view, Why.OFFLINE) if len(view.away) > spec.gates.max_offline_share * len(moved) else None


def _order(view: _View) -> list[str]:
    """Who comes next. Who is there comes first, so that a canary never waits for a device that is switched off."""
    left = {name: one.site for name, one in view.here.items() if name not in view.moved and not one.busy}
    return sorted(spread(left, seed=view.rollout.id), key=lambda name: view.here[name].online_since is None)


def _soaked(view: _View, bad: State, evidence: Evidence | None) -> Plan:
    """The wave's devices are done: look at what they did, let them soak, and go on."""
    rollout, spec = view.rollout, view.rollout.spec
    excused = rollout.excused == rollout.wave
    settled = max((member.settled_at or 0.0 for member in view.moved.values()), default=0.0)
    done = (one for one in view.moved.values() if one.state is DeviceState.SUCCEEDED)
    compared = sorted(one.device for one in done if one.base not in (None, spec.version))
    checks: tuple[Check, ...] = ()
    if compared and not excused:
        if evidence is None:
            return msgspec.structs.replace(_waits(view, Why.SOAK), wants_evidence=tuple(compared))
        looks = int(spec.soak_s // rollout_gates.LOOK_S) + 1
        checks = rollout_gates.judge(evidence, spec.limits, waves=len(spec.waves), looks=looks)
    outcome = rollout_gates.outcome_of(checks)
    devices = len(evidence.pairs) if evidence is not None else 0
    if outcome is Outcome.BAD:
        return _decided(view, bad, Why.EVIDENCE, checks, devices)
    if view.now < settled + spec.soak_s:
        return _waits(view, Why.SOAK)
    if outcome is Outcome.TOO_FEW and spec.needs_evidence and not excused:
        return _waits(view, Why.TOO_FEW)
    if rollout.wave >= len(spec.waves) - 1:
        return _decided(view, State.SUCCEEDED, Why.PASSED, checks, devices)
    made = _decided(view, State.RUNNING, Why.PASSED, checks, devices)
    return msgspec.structs.replace(made, wave=rollout.wave + 1)


def _failing(view: _View) -> bool:
    """Too many errors among those that completed: once there are enough of them, or nobody is left to wait for."""
    gates, bad = view.rollout.spec.gates, view.count(*BAD)
    completed = bad + view.count(DeviceState.SUCCEEDED)
    if view.rollout.excused == view.rollout.wave or bad <= gates.max_error_share * completed:
        return False
    return completed >= gates.min_completed or (view.lacking <= 0 and not view.unfinished)


def _rolling_back(view: _View) -> Plan:
    """It ends when nobody who is there still runs the version, or had the time an attempt may take."""
    rollout, version = view.rollout, view.rollout.spec.version
    still = any(
        view.here[name].online_since is not None and view.here[name].runs == version != member.base
        for name, member in view.moved.items()
    )
    over = not still or view.now > rollout.changed_at + rollout.spec.patience.timeout_s
    return Plan(state=State.ROLLED_BACK if over else State.ROLLING_BACK, wave=rollout.wave, why=rollout.why)


def _waits(view: _View, why: Why) -> Plan:
    return Plan(state=State.RUNNING, wave=view.rollout.wave, why=why)


def _decided(view: _View, decision: State, why: Why, checks: tuple[Check, ...] = (), devices: int = 0) -> Plan:
    bad, succeeded = view.count(*BAD), view.count(DeviceState.SUCCEEDED)
    numbers = {
        "fleet": float(len(view.here)),
        **{state.value: float(view.count(state)) for state in DeviceState},
        "offline": float(len(view.away)),
        "error_share": bad / (bad + succeeded) if bad else 0.0,
        "max_error_share": view.rollout.spec.gates.max_error_share,
    }
    wave = view.rollout.wave
    verdict = Verdict(
        at=view.now, wave=wave, decision=decision, why=why, numbers=numbers, checks=checks, devices=devices
    )
    return Plan(state=decision, wave=wave, why=why, verdict=verdict)
