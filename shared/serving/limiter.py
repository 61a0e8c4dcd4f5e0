"""What one version's entrance has learnt: how far predictions are off, and how much may be under way. Loop's thread only."""

from shared.serving.decide import calibration, concurrency
from shared.serving.decide.admission import Admitted, Ask, Load, Own
from shared.serving.decide.batching import Budget
from shared.serving.decide.calibration import Calibration, factor
from shared.serving.decide.concurrency import Capacity, Concurrency, Sample, expected, limit_of
from shared.serving.decide.cost import Cost, predict


class Limiter:
    """Owner of both; the decisions are `decide/calibration` and `decide/concurrency`."""

    def __init__(self, budget: Budget, *, lanes: int) -> None:
        self.capacity = Capacity(lanes=lanes, rows=budget.rows, tokens=budget.tokens)
        self.concurrency = Concurrency()
        self._calibration = Calibration()
        self._full = 0.0

    def stretch(self, *, now: float) -> float:
        """What predictions are multiplied by now."""
        return factor(self._calibration, now=now)

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
        return limit_of(self.concurrency, self.capacity, full=self._full)

    def took(self, admitted: Admitted, began: float, *, now: float, missed: bool) -> None:
        """A request that began at `began` ended now; `missed`: at its deadline, without an answer."""
        ask, seconds = admitted.ask, now - began
        self._calibration = calibration.observed(
            self._calibration, predicted=admitted.predicted, seconds=seconds, now=now, missed=missed
        )
        sample = Sample(
            began=began,
            seconds=seconds,
            expected=expected(ask.full, ask.seconds),
            in_flight=admitted.in_flight,
            missed=missed,
        )
        self.concurrency = concurrency.observed(self.concurrency, sample, self.capacity, full=ask.full, now=now)
