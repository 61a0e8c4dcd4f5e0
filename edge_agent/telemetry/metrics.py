"""What happened in the current telemetry interval: counts and mergeable latencies, taken whole when the interval ends."""

from typing import NamedTuple

from edge_agent.telemetry.scored import ScoreSheet
from shared.protocol.telemetry import (
    SUB,
    Disagreement,
    Event,
    Histogram,
    RequestCount,
    ShadowCount,
    StepCount,
    bucket_of,
    histogram_of,
)
from shared.serving.answer import Response, Where

MOST_KEYS = 512
"""Distinct kinds of outcome in one interval; what is beyond is counted under `OTHER`, so nothing grows without bound."""
MOST_SCORED = 128
"""Answers of one kind and interval whose scores are looked at: the first ones."""
MOST_EVENTS = 100
MOST_DETAIL = 300
"""Characters of an event's detail."""
MORE = "more"
"""The event that says how many there was no room for."""
OTHER = "other"


class Key(NamedTuple):
    """Requests that ended alike."""

    model: str
    version: str
    where: str
    outcome: str
    reason: str


class ShadowKey(NamedTuple):
    """Copies for a shadow version that ended alike."""

    model: str
    version: str
    result: str
    reason: str


class DisagreementKey(NamedTuple):
    """Requests computed on the device and in the cloud that ended alike."""

    model: str
    version: str
    cloud_version: str
    result: str
    reason: str


class _Tally:
    __slots__ = ("buckets", "count", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.buckets: dict[int, int] = {}


class Interval:
    """Owner of the running interval; used from the event loop only."""

    def __init__(self) -> None:
        self._tallies: dict[Key, _Tally] = {}
        self._shed: dict[str, int] = {}
        self._shadows: dict[ShadowKey, int] = {}
        self._disagreements: dict[DisagreementKey, int] = {}
        self._steps: dict[tuple[str, str], list[float]] = {}
        self._converged: list[float] = []
        self._events: list[Event] = []
        self._more_events = 0
        self.scores = ScoreSheet()

    def request(self, key: Key, seconds: float, response: Response | None = None) -> None:
        """One request ended after `seconds`, with `response` where it was answered."""
        tally = self._tallies.get(key)
        if tally is None:
            if len(self._tallies) >= MOST_KEYS:
                key = Key(OTHER, OTHER, key.where, key.outcome, OTHER)
            tally = self._tallies.setdefault(key, _Tally())
        tally.count += 1
        tally.sum += seconds
        bucket = bucket_of(seconds)
        tally.buckets[bucket] = tally.buckets.get(bucket, 0) + 1
        if response is not None and tally.count <= MOST_SCORED and response.where is Where.LOCAL:
            self.scores.see(response)

    def shed(self, reason: str) -> None:
        """One request was turned away."""
        self._shed[reason] = self._shed.get(reason, 0) + 1

    def shadowed(self, key: ShadowKey) -> None:
        """One copy ended."""
        if key not in self._shadows and len(self._shadows) >= MOST_KEYS:
            key = ShadowKey(OTHER, OTHER, key.result, OTHER)
        self._shadows[key] = self._shadows.get(key, 0) + 1

    def compared(self, key: DisagreementKey) -> None:
        """One request was computed on the device and in the cloud, and the answers were compared."""
        if key not in self._disagreements and len(self._disagreements) >= MOST_KEYS:
            key = DisagreementKey(OTHER, OTHER, OTHER, key.result, OTHER)
        self._disagreements[key] = self._disagreements.get(key, 0) + 1

    def stepped(self, step: str, outcome: str, seconds: float) -> None:
        """One step of convergence ended."""
        self._steps.setdefault((step, outcome), []).append(seconds)

    def converged(self, seconds: float) -> None:
        """A generation came into force, `seconds` after it came."""
        self._converged.append(seconds)

    def event(self, at: float, kind: str, subject: str = "", detail: str = "") -> None:
        """Something happened that is worth a line of its own, at Unix seconds."""
        if len(self._events) >= MOST_EVENTS:
            self._more_events += 1
        else:
            self._events.append(Event(at=at, kind=kind, subject=subject, detail=detail[:MOST_DETAIL]))

    def take_convergence(self) -> tuple[tuple[StepCount, ...], Histogram | None]:
        """Steps, and seconds of whole convergences, since the last call; None for none."""
        steps, self._steps = self._steps, {}
        converged, self._converged = self._converged, []
        counts = (
            StepCount(step=step, outcome=outcome, seconds=histogram_of(each)) for (step, outcome), each in steps.items()
        )
        return tuple(counts), histogram_of(converged) if converged else None

    def take_events(self) -> tuple[Event, ...]:
        """Events since the last call; the last one says how many more there were than are kept."""
        events, self._events = self._events, []
        more, self._more_events = self._more_events, 0
        if more:
            events.append(Event(at=events[-1].at, kind=MORE, detail=str(more)))
        return tuple(events)

    def take_disagreements(self) -> tuple[Disagreement, ...]:
        """Comparisons since the last call."""
        compared, self._disagreements = self._disagreements, {}
        return tuple(Disagreement(**key._asdict(), count=count) for key, count in compared.items())

    def take_shadows(self) -> tuple[ShadowCount, ...]:
        """Copies since the last call."""
        shadows, self._shadows = self._shadows, {}
        return tuple(ShadowCount(**key._asdict(), count=count) for key, count in shadows.items())

    def take(self) -> tuple[tuple[RequestCount, ...], dict[str, int]]:
        """Everything since the last call, requests and shed counts; a new interval begins."""
        tallies, shed = self._tallies, self._shed
        self._tallies, self._shed = {}, {}
        counts = tuple(
            RequestCount(
                **key._asdict(),
                count=tally.count,
                latency=Histogram(
                    count=tally.count,
                    sum=tally.sum,
                    buckets=tally.buckets,
                    sub=SUB,
                ),
            )
            for key, tally in tallies.items()
        )
        return counts, shed
