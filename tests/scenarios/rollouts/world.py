"""A fleet that lives in memory: rollouts as the loop carries them out, generations as reconcile makes them, devices that follow them."""

import random
from collections.abc import Sequence

import msgspec

from cloud_core.decide import generation as decide
from cloud_core.decide.generation import Assigned, Held, Rolled, Snapshot, Wish, with_wish
from cloud_core.decide.rollout import Plan, plan
from cloud_core.decide.rollout_devices import HAVING, Member, Target
from cloud_core.decide.rollout_gates import LOOK_S, Evidence, evidence_of
from cloud_core.decide.rollout_spec import HOLDING, OPEN, Action, Rollout, Spec, State, Verdict, acted
from shared.protocol.desired import Generation, Order
from tests.scenarios.rollouts.traffic import GOOD, Behaviour, Requests

START = 1_800_000_000.0
MODEL, GROUP = "m", "shops"
BASELINE_S = 600.0
WATCHED_S = 1800.0
"""Of traffic no more than this is made up for each device."""
COMPARED = 8
"""Devices whose evidence is looked at: enough for what is planted here, and quick to make up."""


class Device(msgspec.Struct):
    """One device: where it is, since when it is there, and what it makes of its newest generation."""

    name: str
    site: str
    online_since: float | None = START
    desired: Generation | None = None
    told_at: float = START
    runs: dict[str, str] = {}
    since: float = START
    failed_on: Order | None = None
    versions: list[str] = []
    member: bool = True

    @property
    def applied(self) -> bool:
        return self.desired is None or self.runs == {model.name: model.version for model in self.desired.models}


class Running(msgspec.Struct):
    """A rollout with what is stored of it."""

    rollout: Rollout
    members: dict[str, Member] = {}
    verdicts: list[Verdict] = []
    holds: bool = True
    looked: float = 0.0


class World:
    """Owner of the time in it."""

    def __init__(
        self, sizes: Sequence[int], *, seed: str = "seed", behaviours: dict[str, Behaviour] | None = None
    ) -> None:
        """`sizes`: how many devices each site has; they run version 1.0.0, those of `behaviours` can be rolled out."""
        self.now = START
        self.seed = seed
        self.behaviours = {"1.0.0": GOOD, **(behaviours or {})}
        names = [(f"s{site}-d{i}", f"site-{site}") for site, size in enumerate(sizes) for i in range(size)]
        self.devices = {name: Device(name=name, site=site) for name, site in names}
        self.assigned = [Assigned(group=GROUP, models=(Wish(name=MODEL, version="1.0.0"),))]
        self.rollouts: dict[str, Running] = {}
        self.held: dict[str, Held] = {}
        self._traffic: dict[tuple[str, str], Requests] = {}
        self._reconcile()
        for device in self.devices.values():
            self._follow(device, START + 3600.0)

    def start(self, id_: str, version: str, **changes: object) -> Running:
        """Begin a rollout of a version."""
        spec = msgspec.structs.replace(Spec(model=MODEL, version=version, group=GROUP), **changes)
        assert not any(
            one.rollout.state in OPEN and one.rollout.spec.model == spec.model for one in self.rollouts.values()
        )
        rollout = Rollout(id=id_, spec=spec, state=State.RUNNING, changed_at=self.now)
        self.rollouts[id_] = Running(rollout=rollout)
        return self.rollouts[id_]

    def is_open(self, model: str) -> bool:
        """Whether a rollout of the model is under way: a second one would be refused."""
        return any(one.rollout.state in OPEN and one.rollout.spec.model == model for one in self.rollouts.values())

    def act(self, id_: str, action: Action) -> bool:
        """What a person does; False where it cannot be done."""
        running = self.rollouts[id_]
        after = acted(running.rollout, action, self.now)
        if after is None or not running.holds:
            return False
        running.rollout = after
        return True

    def run(self, seconds: float, *, step: float = 10.0) -> None:
        """Let time go by."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            self.tick()

    def tick(self) -> None:
        """What the loops do in one round, and then what devices do."""
        for running in sorted(self.rollouts.values(), key=lambda one: (-one.rollout.spec.priority, one.rollout.id)):
            if running.rollout.state in OPEN:
                self._advance(running)
        self._reconcile()
        for device in self.devices.values():
            self._follow(device, self.now)

    def go_offline(self, name: str) -> None:
        self.devices[name].online_since = None

    def come_back(self, name: str) -> None:
        self.devices[name].online_since = self.now

    def leave(self, name: str) -> None:
        self.devices[name].member = False

    def join(self, name: str) -> None:
        device = self.devices.setdefault(name, Device(name=name, site="site-0", online_since=self.now))
        device.member = True

    def running_version(self, version: str) -> list[str]:
        return [device.name for device in self.devices.values() if device.runs.get(MODEL) == version]

    def _advance(self, running: Running) -> None:
        rollout, members = running.rollout, running.members
        others = [one for one in self.rollouts.values() if one is not running and one.rollout.state in OPEN]
        busy = {m.device for one in others for m in one.members.values() if m.state == "updating"}
        targets = [
            self._target(device, rollout.spec, device.name in busy) for device in self.devices.values() if device.member
        ]
        made = plan(rollout, targets, members, now=self.now)
        if made.wants_evidence and self._look_due(running):
            evidence = self._evidence(running, made.wants_evidence)
            made = plan(rollout, targets, members, now=self.now, evidence=evidence)
            running.looked = self.now
        self._apply(running, made)

    def _apply(self, running: Running, made: Plan) -> None:
        before = running.rollout
        running.rollout = msgspec.structs.replace(
            before,
            state=made.state,
            wave=made.wave,
            why=made.why,
            changed_at=before.changed_at if made.state is before.state else self.now,
        )
        running.members = {**running.members, **{member.device: member for member in made.members}}
        if made.verdict is not None:
            running.verdicts = [*running.verdicts, made.verdict]
        if made.state is State.SUCCEEDED:
            spec = before.spec
            wish = Wish(name=spec.model, version=spec.version)
            (mine,) = self.assigned
            self.assigned = [msgspec.structs.replace(mine, models=with_wish(mine.models, wish))]
            for one in self.rollouts.values():
                if one.rollout.state is State.ABORTED and one.rollout.spec.model == spec.model:
                    one.holds = False

    def _look_due(self, running: Running) -> bool:
        soaked = max((one.settled_at or 0.0 for one in running.members.values()), default=0.0)
        over = soaked + running.rollout.spec.soak_s
        return self.now - running.looked >= LOOK_S or running.looked < over <= self.now

    def _target(self, device: Device, spec: Spec, busy: bool) -> Target:
        return Target(
            device=device.name,
            site=device.site,
            online_since=device.online_since,
            runs=device.runs.get(spec.model),
            applied=device.applied,
            failed_on=device.failed_on,
            error="it does not load" if device.failed_on else "",
            busy=busy,
        )

    def _reconcile(self) -> None:
        rolled: dict[str, tuple[Rolled, ...]] = {}
        for running in self.rollouts.values():
            spec = running.rollout.spec
            if running.rollout.state in HOLDING and running.holds:
                for name, member in running.members.items():
                    if member.state in HAVING:
                        one = Rolled(group=spec.group, model=spec.model, version=spec.version)
                        rolled[name] = (*rolled.get(name, ()), one)
        named = {(wish.name, wish.version) for one in self.assigned for wish in one.models}
        named |= {(one.rollout.spec.model, one.rollout.spec.version) for one in self.rollouts.values()}
        snapshot = Snapshot(
            tenant="a",
            epoch=1,
            devices=tuple(self.devices),
            memberships={
                name: (GROUP, device.site) if device.member else (device.site,) for name, device in self.devices.items()
            },
            assignments=tuple(self.assigned),
            digests={pair: "@".join(pair) for pair in named},
            policies={},
            held=self.held,
            rolled=rolled,
        )
        for step in decide.plan(snapshot, now=self.now, valid=1e9).steps:
            made = step.generation
            self.held[made.device] = Held(
                order=made.order, content=step.content, groups=step.groups, expires_at=made.expires_at
            )
            device = self.devices[made.device]
            device.versions = [*device.versions, *(f"{one.name}@{one.version}" for one in made.models)]

    def _follow(self, device: Device, now: float) -> None:
        """Take the newest generation where it is there, and be done with it after a while, or give it up."""
        if device.online_since is None:
            return
        held = self.held.get(device.name)
        if held is None:
            return
        if device.desired is None or device.desired.order != held.order:
            device.desired = Generation(
                tenant="a",
                device=device.name,
                epoch=held.order.epoch,
                number=held.order.number,
                issued_at=now,
                expires_at=held.expires_at,
                models=held.content.models,
                policy=held.content.policy,
            )
            device.told_at = self.now
            device.failed_on = None
        for model in device.desired.models:
            how = self.behaviours.get(model.version, GOOD)
            if device.runs.get(model.name) == model.version or device.failed_on is not None:
                continue
            if how.converges_s is None or now - max(device.told_at, device.online_since) < how.converges_s:
                continue
            if random.Random(f"{self.seed}/{device.name}/{model.version}/fails").random() < how.fails:
                device.failed_on = device.desired.order
            else:
                device.runs = {**device.runs, model.name: model.version}
                device.since = self.now
        wanted = {model.name for model in device.desired.models}
        if device.failed_on is None:
            device.runs = {name: version for name, version in device.runs.items() if name in wanted}

    def _evidence(self, running: Running, names: Sequence[str]) -> Evidence:
        version = running.rollout.spec.version
        newest = sorted(names, key=lambda name: (-(running.members[name].settled_at or 0.0), name))[:COMPARED]
        cells = {}
        for name in newest:
            base = running.members[name].base
            assert base is not None
            old = self._requests(name, base).until(BASELINE_S)
            new = self._requests(name, version).until(min(WATCHED_S, self.now - self.devices[name].since))
            cells[name] = ({"local": old}, {"local": new})
        return evidence_of(cells)

    def _requests(self, device: str, version: str) -> Requests:
        key = (device, version)
        if key not in self._traffic:
            self._traffic[key] = Requests(self.seed, device, version, self.behaviours.get(version, GOOD))
        return self._traffic[key]
