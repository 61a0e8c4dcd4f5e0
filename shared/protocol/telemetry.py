"""Samples, mergeable histograms, epoch and sequence numbers.

A histogram is a map from bucket index to count. Buckets are log-linear: each power of two is cut into `SUB` equal parts, so a
value is known to a relative error of at most 1/(2*SUB); merging is adding counts, so a fleet's quantile is a quantile and
never an average of quantiles.
"""

import math
from collections.abc import Iterable

import msgspec

KIND = "telemetry"
ACK = "telemetry-ack"
SUB = 16
UNIT = 1e-6
"""Seconds; everything below one microsecond falls into the first bucket."""


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Counts by bucket index (as text, since JSON keys are), with their number and the sum of the values in seconds."""

    count: int = 0
    sum: float = 0.0
    buckets: dict[str, int] = {}


def bucket_of(value: float) -> int:
    """Index of the bucket that holds `value` (seconds)."""
    scaled = value / UNIT
    if not scaled >= 1.0:
        return 0
    exponent = math.frexp(scaled)[1] - 1
    return 1 + exponent * SUB + int((scaled / 2.0**exponent - 1.0) * SUB)


def bounds_of(index: int) -> tuple[float, float]:
    """Lower and upper bound of a bucket, in seconds."""
    if index <= 0:
        return 0.0, UNIT
    exponent, part = divmod(index - 1, SUB)
    low = 2.0**exponent * (1 + part / SUB)
    return low * UNIT, (low + 2.0**exponent / SUB) * UNIT


def observe(histogram: Histogram, value: float) -> Histogram:
    """The histogram with one more value (seconds)."""
    key = str(bucket_of(value))
    buckets = {**histogram.buckets, key: histogram.buckets.get(key, 0) + 1}
    return Histogram(count=histogram.count + 1, sum=histogram.sum + value, buckets=buckets)


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """All counts added up."""
    count, total, buckets = 0, 0.0, dict[str, int]()
    for histogram in histograms:
        count += histogram.count
        total += histogram.sum
        for key, n in histogram.buckets.items():
            buckets[key] = buckets.get(key, 0) + n
    return Histogram(count=count, sum=total, buckets=buckets)


def quantile(histogram: Histogram, q: float) -> float | None:
    """The `q` quantile in seconds (middle of its bucket); None for an empty histogram."""
    if histogram.count == 0:
        return None
    rank, seen = max(1, math.ceil(q * histogram.count)), 0
    for index in sorted(int(key) for key in histogram.buckets):
        seen += histogram.buckets[str(index)]
        if seen >= rank:
            return sum(bounds_of(index)) / 2
    return sum(bounds_of(max(int(key) for key in histogram.buckets))) / 2


class RequestCount(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that ended alike since the last sample."""

    model: str
    version: str
    where: str
    outcome: str
    reason: str
    count: int
    latency: Histogram


class ShadowCount(msgspec.Struct, frozen=True, kw_only=True):
    """Copies for a shadow version that ended alike since the last sample: `agree`, `differ`, `failed` or `dropped`, and why."""

    model: str
    version: str
    result: str
    reason: str
    count: int


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """How the device is doing: fractions of 1 for CPU and memory, bytes for disk."""

    cpu: float
    memory: float
    disk_free_bytes: int
    agent_memory_bytes: int
    temperature_c: float | None = None


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One interval of one device. `seq` rises by one per sample and is never reused; `dropped` counts, by reason, samples lost since."""

    seq: int
    started_at: float
    ended_at: float
    host: Host
    requests: tuple[RequestCount, ...] = ()
    shed: dict[str, int] = {}
    dropped: dict[str, int] = {}
    shadows: tuple[ShadowCount, ...] = ()


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What one telemetry message carries. The cloud upserts on (device, epoch, seq)."""

    epoch: int
    samples: tuple[Sample, ...]


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """The watermark: every sample of `epoch` up to and including `seq` is durable in the cloud."""

    epoch: int
    seq: int
