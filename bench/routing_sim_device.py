"""A device in the routing simulator: the real `route` and what the agent knows of its cloud, and the rivals in their place.

`Routed` does with a verdict what `edge_agent/serving/attempts.py` does: a device that sheds may hand over, a cloud that fails may be
fallen back from, each once and only where `decide/routing` allows it. `CloudTarget` is the agent's own, on the world's clock: breaker,
estimate, window, budgets, retry budget, announced pressure and lottery.
"""

from collections.abc import Callable
from enum import StrEnum

from bench.routing_sim_world import Job, Place, Stay, World
from cloud_core.decide import pressure as pressures
from edge_agent.decide import displacement, timeouts
from edge_agent.decide.routing import Ask, Cloud, Local, Refuse, after_cloud_failure, after_local_failure, route
from edge_agent.serving.cloud import CloudTarget
from shared.protocol.policy import Mode, Rules
from shared.protocol.pressure import Pressure

MODEL = "m"
PRESSURE_S = 1.0
"""How often the gateway looks (`cloud_core/gateway/pressure.py`)."""


def _size(job: Job) -> float:
    """Bytes of a body: three for a character, and what stands around them."""
    return 3.0 * job.tokens + 100.0


class Fault(StrEnum):
    """How the cloud is away: nobody takes the connection, or somebody does and never answers."""

    NONE = "none"
    DOWN = "down"
    SILENT = "silent"


class Reply(StrEnum):
    """How a request to the cloud ended."""

    ANSWERED = "answered"
    SHED = "shed"
    FAILED = "failed"
    LATE = "late"


class CloudSide:
    """The cloud's place behind the link, and when it is away."""

    def __init__(self, world: World, place: Place, fault: Fault, away: tuple[float, float]) -> None:
        self.place = place
        self.fault = fault
        self._world = world
        self._away = away
        self.last: tuple[Pressure, float] | None = None

    @property
    def is_away(self) -> bool:
        """Whether it cannot be asked now."""
        return self.fault is not Fault.NONE and self._away[0] <= self._world.now < self._away[1]

    def announce(self, tell: Callable[[Pressure], None], until: float) -> None:
        """Say each second how much can be taken, where it is worth saying, until the last request came."""
        now = self._world.now
        if not self.is_away:
            loads = {MODEL: [pressures.Load(expected_wait=self.place.expected_wait())]}
            limits = pressures.Limits()
            current = pressures.pressure(loads, now=now, limits=limits)
            last, at = self.last or (None, now)
            if isinstance(pressures.worth_saying(last, current, since=now - at, limits=limits), pressures.Publish):
                self.last = current, now
                tell(current)
        if now + PRESSURE_S < until:
            self._world.at(now + PRESSURE_S, lambda: self.announce(tell, until))


class Trip:
    """One exchange with the cloud; told to `target` exactly once."""

    def __init__(
        self,
        world: World,
        cloud: CloudSide,
        target: CloudTarget,
        job: Job,
        ended: Callable[[Reply], None],
        *,
        until: float | None = None,
    ) -> None:
        """`until`: when it is given up, if before the request's deadline."""
        self._world, self._cloud, self._target, self._job, self._ended = world, cloud, target, job, ended
        self._began = world.now
        self._stay: Stay | None = None
        self._over = False
        target.sent()
        world.at(world.now + job.up, self._arrives)
        self._until = world.now + timeouts.timeout((until or job.deadline) - world.now)
        world.at(self._until, self._times_out)

    def _arrives(self) -> None:
        world, job = self._world, self._job
        if self._over:
            return
        if self._cloud.is_away:
            if self._cloud.fault is Fault.DOWN:
                world.at(world.now + job.down, self._over_with, Reply.FAILED)
            return
        # The header says how much was left when it was sent.
        self._stay = self._cloud.place.offer(job, self._until + job.up, self._computed)
        if self._stay is None:
            world.at(world.now + job.down, self._over_with, Reply.SHED)

    def _computed(self, answered: bool) -> None:
        if self._cloud.is_away:
            if self._cloud.fault is Fault.DOWN:
                self._world.at(self._world.now + self._job.down, self._over_with, Reply.FAILED)
            return
        self._world.at(self._world.now + self._job.down, self._over_with, Reply.ANSWERED if answered else Reply.LATE)

    def _times_out(self) -> None:
        if not self._over:
            self._over_with(Reply.LATE)
            if self._stay is not None:
                self._world.at(self._world.now + self._job.up, self._cloud.place.abandon, self._stay)

    def _over_with(self, reply: Reply) -> None:
        if self._over:
            return
        self._over = True
        took = self._world.now - self._began
        match reply:
            case Reply.ANSWERED:
                self._target.answered(MODEL, took, size=_size(self._job))
            case Reply.SHED:
                self._target.shed(took)
            case Reply.FAILED:
                self._target.failed()
            case Reply.LATE:
                self._target.ran_late(MODEL, took)
        self._ended(reply)


class Routed:
    """A device that asks `decide/routing`."""

    def __init__(self, world: World, local: Place, cloud: CloudSide, target: CloudTarget, rules: Rules) -> None:
        self._world, self._local, self._cloud, self._target, self._rules = world, local, cloud, target, rules
        self.reasons: dict[str, int] = {}
        self._traffic = displacement.Traffic()

    def ask(self, job: Job) -> None:
        """A request is here."""
        self._target.asked()
        state = self._target.state(MODEL, self._rules, size=_size(job))
        now, ask = self._world.now, Ask(deadline=job.deadline)
        local = self._local.predicted(job, followers=displacement.followers(self._traffic, now=now))
        verdict = route(ask, local, state, self._rules, now=now)
        verdict = self._target.exercise(verdict, ask, local, state, self._rules, now=now)
        self._traffic = displacement.arrived(
            self._traffic, here=isinstance(verdict, Local), busy=local.expected_wait > 0.0, now=now
        )
        name = f"{type(verdict).__name__.lower()} {verdict.reason.value}"
        self.reasons[name] = self.reasons.get(name, 0) + 1
        if isinstance(verdict, Local):
            self._here(job)
        elif isinstance(verdict, Cloud):
            completion = None if self._rules.mode is Mode.CLOUD_ONLY else local.completion
            until = timeouts.with_reserve(job.deadline, completion, now=now, usual=state.completion)
            Trip(self._world, self._cloud, self._target, job, lambda reply: self._back(job, reply), until=until)

    def _here(self, job: Job, *, again: bool = False) -> None:
        def ended(answered: bool) -> None:
            if answered:
                job.answered(self._world.now)

        stay = self._local.offer(job, job.deadline, ended)
        if stay is None and not again:
            state = self._target.state(MODEL, self._rules, size=_size(job))
            if not isinstance(
                after_local_failure(Ask(deadline=job.deadline), state, self._rules, now=self._world.now), Refuse
            ):
                self._target.retried()
                Trip(self._world, self._cloud, self._target, job, lambda reply: self._there_again(job, reply))

    def _there_again(self, job: Job, reply: Reply) -> None:
        if reply is Reply.ANSWERED:
            job.answered(self._world.now)

    def _back(self, job: Job, reply: Reply) -> None:
        if reply is Reply.ANSWERED:
            job.answered(self._world.now)
            return
        state = self._local.predicted(job)
        verdict = after_cloud_failure(Ask(deadline=job.deadline), state, self._rules, now=self._world.now)
        if isinstance(verdict, Local):
            self._here(job, again=True)


class Threshold:
    """What most systems would do: here while fewer than `most` wait, there otherwise; whoever is asked lets everybody in."""

    def __init__(self, world: World, local: Place, cloud: CloudSide, target: CloudTarget, *, most: int = 8) -> None:
        self._world, self._local, self._cloud, self._target, self._most = world, local, cloud, target, most

    def ask(self, job: Job) -> None:
        """A request is here."""

        def ended(answered: bool) -> None:
            if answered:
                job.answered(self._world.now)

        if self._local.waiting < self._most:
            self._local.offer(job, job.deadline, ended, guarded=False)
        else:
            Trip(self._world, self._cloud, self._target, job, lambda reply: ended(reply is Reply.ANSWERED))


class ByConfidence:
    """What Sedna's joint inference does: always here first, and there as well where the answer is unsure; load is not looked at."""

    def __init__(
        self, world: World, local: Place, cloud: CloudSide, target: CloudTarget, *, below: float = 0.2
    ) -> None:
        self._world, self._local, self._cloud, self._target, self._below = world, local, cloud, target, below

    def ask(self, job: Job) -> None:
        """A request is here."""

        def ended(answered: bool) -> None:
            if not answered:
                return
            if job.sure >= self._below:
                job.answered(self._world.now)
            else:
                # Whatever comes of it: the local answer stands where the cloud has none in time.
                Trip(self._world, self._cloud, self._target, job, there)

        def there(_: Reply) -> None:
            job.answered(min(self._world.now, job.deadline))

        self._local.offer(job, job.deadline, ended, guarded=False)
