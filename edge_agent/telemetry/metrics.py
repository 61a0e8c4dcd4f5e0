"""What happened in the current telemetry interval: counts and mergeable latencies, taken whole when the interval ends."""

from typing import NamedTuple

from shared.protocol.telemetry import Histogram, RequestCount, ShadowCount, bucket_of

MOST_KEYS = 512
"""Distinct kinds of outcome in one interval; what is beyond is counted under `OTHER`, so nothing grows without bound."""
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

    def request(self, key: Key, seconds: float) -> None:
        """One request ended after `seconds`."""
        tally = self._tallies.get(key)
        if tally is None:
            if len(self._tallies) >= MOST_KEYS:
                key = Key(OTHER, OTHER, key.where, key.outcome, OTHER)
            tally = self._tallies.setdefault(key, _Tally())
        tally.count += 1
        tally.sum += seconds
        bucket = bucket_of(seconds)
        tally.buckets[bucket] = tally.buckets.get(bucket, 0) + 1

    def shed(self, reason: str) -> None:
        """One request was turned away."""
        self._shed[reason] = self._shed.get(reason, 0) + 1

    def shadowed(self, key: ShadowKey) -> None:
        """One copy ended."""
        if key not in self._shadows and len(self._shadows) >= MOST_KEYS:
            key = ShadowKey(OTHER, OTHER, key.result, OTHER)
        self._shadows[key] = self._shadows.get(key, 0) + 1

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
                    buckets={str(index): n for index, n in sorted(tally.buckets.items())},
                ),
            )
            for key, tally in tallies.items()
        )
        return counts, shed
