"""What a benchmark gathers on its way to a `Result`: figures and ratios of rounds, each named once, with the goal that binds it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench import rounds
from bench.result import Goal, Result
from bench.rounds import Interval


@dataclass
class Findings:
    """Written to while a benchmark runs; see `Result` for what the parts mean."""

    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    goals: dict[str, Goal] = field(default_factory=dict)
    interval_goals: dict[str, Goal] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    def figure(self, name: str, values: Sequence[float], *, goal: Goal | None = None) -> None:
        """The median of a figure that each round has one of."""
        self._set(name, rounds.of(values), goal=goal, told=False)

    def ratio(
        self,
        name: str,
        these: Sequence[float],
        those: Sequence[float],
        *,
        goal: Goal | None = None,
        whole: Goal | None = None,
    ) -> None:
        """`these` over `those`, round by round; `goal` binds the median, `whole` all of the interval."""
        self._set(name, rounds.ratio(these, those), goal=goal, told=True)
        if whole is not None:
            self.interval_goals[name] = whole

    def result(self, name: str) -> Result:
        """All of it."""
        return Result(
            name=name,
            metrics=self.metrics,
            intervals=self.intervals,
            goals=self.goals,
            interval_goals=self.interval_goals,
            notes=tuple(self.notes),
            versions=self.versions,
        )

    def _set(self, name: str, found: Interval, *, goal: Goal | None, told: bool) -> None:
        self.metrics[name] = found.median
        if told:
            self.intervals[name] = found
        if goal is not None:
            self.goals[name] = goal
