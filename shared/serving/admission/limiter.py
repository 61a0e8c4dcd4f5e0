"""What one version's entrance has learnt: how far predictions are off, and how much may be under way. Loop's thread only."""

from typing import Protocol

from shared.serving.decide import calibration, concurrency
from shared.serving.decide.admission import Admitted, Ask, Load, Own
from shared.serving.decide.batching import Budget
from shared.serving.decide.calibration import Calibration, Stretch
from shared.serving.decide.concurrency import Capacity, Concurrency, Sample, expected, limit_of
from shared.serving.decide.cost import Cost, predict


class Computes(Protocol):
    """What computes for the version, now: it may be arranged anew at any time."""

    budget: Budget
    lanes: int


class Limiter:
    """Owner of both; the decisions are `decide/calibration` and `decide/concurrency`."""

    def __init__(self, computes: Computes) -> None:
        self.concurrency = Concurrency()
        self._computes = computes
        self._budget = computes.budget
        self._capacity = _capacity_of(computes)
        self._calibration = Calibration()
        self._full = 0.0

    @property
    def capacity(self) -> Capacity:
        """How much is computed at once; where that changed, the limit begins anew, since it is told in rows of full batches."""
        computes = self._computes
        if computes.budget is not self._budget or computes.lanes != self._capacity.lanes:
            self._budget = computes.budget
            if self._capacity != (found := _capacity_of(computes)):
                self._capacity = found
                self.concurrency = Concurrency()
        return self._capacity

    def stretch(self, *, now: float) -> Stretch:
        """How predictions are read now."""
        return calibration.stretch(self._calibration, now=now)

    def company(self, cost: Cost) -> int:
        """Tokens of the batch a request gets into that has to wait: as many as batches have had of late."""
        return min(self.capacity.tokens, int(cost.mean_tokens))

    def ask(self, entries: int, tokens: int, size: int, cost: Cost) -> Ask:
        """What a request of `entries` items with `tokens` tokens and `size` bytes asks for."""
        self._full = full = predict(cost, self.capacity.full(entries, tokens))
        return Ask(
            entries=entries,
            tokens=tokens,
            bytes=size,
            slots=self.capacity.slots(entries, tokens),
            seconds=predict(cost, tokens),
            full=full,
            company=predict(cost, self.company(cost)),
        )

    def own(self, load: Load, *, shared: bool) -> Own:
        """How much of this version is under way, and may be."""
        return Own(load=load, in_flight=self.in_flight(load), limit=self.limit, shared=shared)

    def in_flight(self, load: Load) -> float:
        """Slots that `load` takes."""
        return self.capacity.slots(load.entries, load.tokens)

    @property
    def limit(self) -> float:
        """Slots that may be under way now."""
        capacity = self.capacity
        return limit_of(self.concurrency, capacity, full=self._full)

    def took(self, admitted: Admitted, began: float, *, now: float, missed: bool) -> None:
        """A request that began at `began` ended now; `missed`: at its deadline, without an answer."""
        ask, seconds = admitted.ask, now - began
        self._calibration = calibration.observed(
            self._calibration, predicted=admitted.predicted, seconds=seconds, now=now, missed=missed
        )
        capacity = self.capacity
        sample = Sample(
            began=began,
            seconds=seconds,
            expected=expected(ask.full, ask.seconds),
            in_flight=admitted.in_flight,
            missed=missed,
        )
        self.concurrency = concurrency.observed(self.concurrency, sample, capacity, full=ask.full, now=now)


def _capacity_of(computes: Computes) -> Capacity:
    return Capacity(lanes=computes.lanes, rows=computes.budget.rows, tokens=computes.budget.tokens)
