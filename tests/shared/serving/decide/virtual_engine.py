"""An engine in virtual time: the real decisions (admission, batching, cost, calibration, concurrency) around invented computation.

Every batch of n padded tokens takes `per_token * n + fixed` seconds, times `speed(now)`, within a few percent; a stall freezes the lanes.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace

from shared.serving.admission.limiter import Limiter
from shared.serving.decide import cost as costs
from shared.serving.decide.admission import Admitted, Limits, Load, Own, Shed, ShedReason, admit
from shared.serving.decide.batching import Budget, Waiting, next_batch
from shared.serving.decide.cost import Cost
from shared.serving.decide.turn import expected_wait


class VirtualRequest:
    """`items` texts of `tokens` tokens each that came at `began`."""

    def __init__(self, admitted: Admitted, *, began: float, deadline: float | None, items: int, tokens: int) -> None:
        self.admitted = admitted
        self.began = began
        self.deadline = deadline
        self.left = items
        self.tokens = tokens
        self.gone = False


class VirtualEngine:
    def __init__(
        self,
        *,
        per_token: float = 1.5e-4,
        fixed: float = 2e-3,
        lanes: int = 1,
        budget: Budget = Budget(),  # noqa: B008 - a frozen value
        deadline: float | None = None,
        limited: bool = True,
        speed: Callable[[float], float] = lambda now: 1.0,
        stall: tuple[float, float] = (math.inf, math.inf),
        seed: int = 1,
    ) -> None:
        self.now = 0.0
        self.cost = Cost()
        for tokens in (8, 128):
            self.cost = costs.observed(self.cost, tokens, per_token * tokens + fixed)
        self.limiter = Limiter(SimpleNamespace(budget=budget, lanes=lanes))
        self.limits: list[tuple[float, float]] = []
        """When a request came, and how much might be under way then."""
        self.slots: list[tuple[float, float]] = []
        self.answered: list[tuple[float, float]] = []
        """When a request was answered, and how long it took."""
        self.missed: list[float] = []
        self.shed: list[tuple[float, ShedReason, float]] = []
        self.ended: Callable[[VirtualRequest], None] | None = None
        """Called, while it is set, when a request was answered."""
        self._per_token, self._fixed = per_token, fixed
        self._lanes, self._budget, self._deadline = lanes, budget, deadline
        self._limited, self._speed, self._stall = limited, speed, stall
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._waiting: list[tuple[VirtualRequest, float]] = []
        self._running: dict[int, tuple[list[VirtualRequest], int, float]] = {}

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until

    def at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def offer(self, rate: float, begin: float, end: float, *, items: int = 1, tokens: int = 32) -> None:
        """Independent requests, `rate` per second."""
        for when in _poisson(self._random, rate, begin, end):
            self.at(when, lambda: self.ask(items, tokens))

    def ask(self, items: int = 1, tokens: int = 32) -> Admitted | Shed:
        load = self._load()
        ask = self.limiter.ask(items, items * tokens, 0, self.cost)
        own = self.limiter.own(load, shared=False) if self._limited else Own(load=load)
        deadline = None if self._deadline is None else self.now + self._deadline
        stretch = self.limiter.stretch(now=self.now)
        self.limits.append((self.now, own.limit))
        self.slots.append((self.now, self.limiter.in_flight(load)))
        verdict = admit(load, Limits(), ask, deadline=deadline, now=self.now, stretch=stretch, own=own)
        if isinstance(verdict, Shed):
            self.shed.append((self.now, verdict.reason, verdict.retry_after))
            return verdict
        request = VirtualRequest(verdict, began=self.now, deadline=deadline, items=items, tokens=tokens)
        self._waiting += [(request, self.now)] * items
        if deadline is not None:
            self.at(deadline, lambda: self._give_up(request))
        self._pull()
        return verdict

    def goodput(self, begin: float, end: float) -> float:
        return sum(begin <= when < end for when, _ in self.answered) / (end - begin)

    def limit_between(self, begin: float, end: float) -> tuple[float, float]:
        seen = [limit for when, limit in self.limits if begin <= when < end]
        return min(seen), max(seen)

    def latency(self, begin: float, end: float, share: float = 0.5) -> float:
        took = sorted(seconds for when, seconds in self.answered if begin <= when < end)
        return took[int(share * (len(took) - 1))]

    def _load(self) -> Load:
        waiting, rows = sum(request.tokens for request, _ in self._waiting), len(self._waiting)
        running = [(padded, since) for _, padded, since in self._running.values()]
        lanes, now = self._lanes, self.now
        return Load(
            entries=rows + sum(len(batch) for batch, _, _ in self._running.values()),
            tokens=waiting + sum(each.tokens for batch, _, _ in self._running.values() for each in batch),
            expected_wait=expected_wait(
                self.cost, self._budget, rows=rows, tokens=waiting, running=running, lanes=lanes, now=now
            ),
        )

    def _pull(self) -> None:
        for lane in range(self._lanes):
            if lane in self._running or not self._waiting:
                continue
            listed = [Waiting(id=i, tokens=r.tokens, enqueued_at=at) for i, (r, at) in enumerate(self._waiting)]
            chosen = next_batch(listed, self._budget, now=self.now, idle=self._lanes - len(self._running))
            batch = [self._waiting[i][0] for i in chosen.ids]
            self._waiting = [each for i, each in enumerate(self._waiting) if i not in set(chosen.ids)]
            self._running[lane] = (batch, chosen.padded, self.now)
            self.at(self._ends(chosen.padded), lambda lane=lane: self._end(lane))  # type: ignore[misc]

    def _ends(self, padded: int) -> float:
        seconds = (self._per_token * padded + self._fixed) * self._speed(self.now) * self._random.uniform(0.95, 1.1)
        begin, end = self._stall
        frozen = end - max(begin, self.now) if self.now < end and self.now + seconds > begin else 0.0
        return self.now + seconds + frozen

    def _end(self, lane: int) -> None:
        batch, padded, since = self._running.pop(lane)
        self.cost = costs.observed(self.cost, padded, self.now - since)
        for request in batch:
            request.left -= 1
            if request.left == 0 and not request.gone:
                self.answered.append((self.now, self.now - request.began))
                self.limiter.took(request.admitted, request.began, now=self.now, missed=False)
                if self.ended is not None:
                    self.ended(request)
        self._pull()

    def _give_up(self, request: VirtualRequest) -> None:
        if request.left and not request.gone:
            request.gone = True
            self._waiting = [each for each in self._waiting if each[0] is not request]
            self.missed.append(self.now)
            self.limiter.took(request.admitted, request.began, now=self.now, missed=True)


def _poisson(source: random.Random, rate: float, begin: float, end: float) -> Iterator[float]:
    when = begin + source.expovariate(rate)
    while when < end:
        yield when
        when += source.expovariate(rate)
