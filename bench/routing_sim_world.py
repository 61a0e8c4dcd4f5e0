"""Virtual time, a place that computes, and a link: what the routing simulator is made of.

A place answers one request after the other on each of its lanes, first come, first served (`next_batch` with batches of one row), behind
the real admission, cost model, calibration and limit on concurrency. Batches are of one row so that what a request takes is its own, and
the bound has no batching to guess.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from bench.routing_sim_traces import ServiceTimes
from edge_agent.decide.displacement import displaced
from edge_agent.decide.routing import LocalState
from shared.serving.admission.limiter import Limiter
from shared.serving.decide import cost as costs
from shared.serving.decide.admission import Admitted, Limits, Load, Shed, admit
from shared.serving.decide.batching import Budget
from shared.serving.decide.cost import Cost, predict

WARMED = (8, 16, 32, 64, 128, 256)
"""A place has computed texts of these lengths before the first request, as a version has that was loaded and warmed."""


class Job:
    """One request. `seconds` is what it takes at speed 1, `up` and `down` its ways over the link, `sure` how sure the device will be."""

    __slots__ = ("arrival", "deadline", "down", "index", "latency", "seconds", "sure", "tokens", "up")

    def __init__(
        self,
        index: int,
        arrival: float,
        tokens: int,
        deadline: float,
        *,
        seconds: float,
        up: float,
        down: float,
        sure: float,
    ) -> None:
        self.index, self.arrival, self.tokens, self.seconds = index, arrival, tokens, seconds
        self.deadline = arrival + deadline
        self.up, self.down, self.sure = up, down, sure
        self.latency: float | None = None
        """Seconds until it was answered in time; None where it was not."""

    def answered(self, now: float) -> None:
        """It has its answer."""
        if now <= self.deadline and self.latency is None:
            self.latency = now - self.arrival


class World:
    """The clock (`shared.io.clock.Clock`) and what is going to happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        """Seconds since the beginning."""
        return self.now

    def wall(self) -> float:
        """The same: nothing adjusts this clock."""
        return self.now

    def at(self, when: float, call: Callable[..., None], *arguments: object) -> None:
        """`call` happens at `when`; what happens at the same time happens in the order it was asked for."""
        heapq.heappush(self._events, (when, next(self._order), call, arguments))

    def run(self) -> None:
        """Until nothing is going to happen."""
        while self._events:
            self.now, _, call, arguments = heapq.heappop(self._events)
            call(*arguments)


class Power(NamedTuple):
    """How much a place computes at once, and how fast beside the recorded times."""

    lanes: int = 1
    speed: float = 1.0

    @property
    def capacity(self) -> float:
        """Seconds of recorded work it does in a second."""
        return self.lanes * self.speed


class _Rows:
    """What the limiter wants to know of what computes."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.budget = Budget(rows=1)


class Stay:
    """One request at one place. `ended(answered)` is called once, unless it was abandoned."""

    __slots__ = ("admitted", "began", "deadline", "ended", "gone", "job", "since")

    def __init__(
        self, job: Job, admitted: Admitted | None, deadline: float, began: float, ended: Callable[[bool], None]
    ) -> None:
        self.job, self.admitted, self.deadline, self.began, self.ended = job, admitted, deadline, began, ended
        self.since = 0.0
        self.gone = False


class Place:
    """Lanes behind a queue. `down`: from when until when it is not there."""

    def __init__(self, world: World, power: Power, times: ServiceTimes, *, limits: Limits = Limits()) -> None:  # noqa: B008
        self.power = power
        self.limiter = Limiter(_Rows(power.lanes))
        self.most_wait = 0.0
        """The longest wait there ever was, in seconds."""
        self.most_entries = 0
        self.shed = 0
        self.taken = 0
        self._world = world
        self._limits = limits
        self._cost = Cost()
        for tokens in WARMED:
            self._cost = costs.observed(self._cost, tokens, times.mean(tokens) / power.speed)
        self._waiting: deque[Stay] = deque()
        self._waiting_tokens = 0
        self._running: set[Stay] = set()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def load(self) -> Load:
        """What waits and runs, as `BatchQueue.load` tells it for batches of one row."""
        running, now = self._running, self._world.now
        left = 0.0
        if len(running) >= self.power.lanes:
            left = min(max(0.0, predict(self._cost, each.job.tokens) - (now - each.since)) for each in running)
        queued = predict(self._cost, self._waiting_tokens, batches=len(self._waiting)) / self.power.lanes
        return Load(
            entries=len(self._waiting) + len(running),
            tokens=self._waiting_tokens + sum(each.job.tokens for each in running),
            expected_wait=left + queued,
        )

    def expected_wait(self) -> float:
        """Seconds until a batch formed now would start, as an engine tells routing and the pressure it announces."""
        return self.load().expected_wait * self.limiter.stretch(now=self._world.now).factor

    def predicted(self, job: Job, *, followers: float = 0.0) -> LocalState:
        """What an engine tells routing of one request, and what that costs `followers` a second."""
        load, stretch = self.load(), self.limiter.stretch(now=self._world.now)
        turn, own = load.expected_wait, predict(self._cost, job.tokens)
        return LocalState(
            expected_wait=turn * stretch.factor,
            service=stretch.of(turn + own) - turn * stretch.factor,
            full=self.limiter.in_flight(load) >= self.limiter.limit,
            caution=stretch.of(turn + own) - (turn + own) * stretch.factor,
            displaced=displaced(followers, wait=turn * stretch.factor, work=own * stretch.factor),
        )

    def offer(self, job: Job, deadline: float, ended: Callable[[bool], None], *, guarded: bool = True) -> Stay | None:
        """Let it wait, or shed it (None). Unguarded, whoever comes is let in."""
        now, load = self._world.now, self.load()
        ask = msgspec.structs.replace(self.limiter.ask(1, job.tokens, 0, self._cost), company=0.0)
        verdict = admit(
            load,
            self._limits,
            ask,
            deadline=deadline,
            now=now,
            stretch=self.limiter.stretch(now=now),
            own=self.limiter.own(load, shared=False),
        )
        if isinstance(verdict, Shed) and guarded:
            self.shed += 1
            return None
        self.taken += 1
        stay = Stay(job, verdict if isinstance(verdict, Admitted) else None, deadline, now, ended)
        self._waiting.append(stay)
        self._waiting_tokens += job.tokens
        self.most_wait = max(self.most_wait, load.expected_wait)
        self.most_entries = max(self.most_entries, load.entries + 1)
        self._pull()
        self._world.at(deadline, self._give_up, stay)
        return stay

    def abandon(self, stay: Stay) -> None:
        """Nobody waits for it any more."""
        if stay.gone:
            return
        stay.gone = True
        if stay in self._running:
            self._running.discard(stay)
            self._pull()
        else:
            self._waiting.remove(stay)
            self._waiting_tokens -= stay.job.tokens

    def _give_up(self, stay: Stay) -> None:
        """Its deadline is here: it is dropped, or what computes it is interrupted."""
        if not stay.gone:
            self.abandon(stay)
            self._learn(stay, missed=True)
            stay.ended(False)

    def _pull(self) -> None:
        while self._waiting and len(self._running) < self.power.lanes:
            stay = self._waiting.popleft()
            self._waiting_tokens -= stay.job.tokens
            stay.since = self._world.now
            self._running.add(stay)
            self._world.at(stay.since + stay.job.seconds / self.power.speed, self._done, stay)

    def _done(self, stay: Stay) -> None:
        if stay.gone:
            return
        stay.gone = True
        self._running.discard(stay)
        self._cost = costs.observed(self._cost, stay.job.tokens, self._world.now - stay.since)
        self._learn(stay, missed=False)
        self._pull()
        stay.ended(True)

    def _learn(self, stay: Stay, *, missed: bool) -> None:
        if stay.admitted is not None:
            self.limiter.took(stay.admitted, stay.began, now=self._world.now, missed=missed)
