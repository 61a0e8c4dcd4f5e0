"""Samples, mergeable histograms, epoch and sequence numbers.

A histogram is a map from bucket index to count. Buckets are log-linear, as in HdrHistogram and OpenTelemetry's exponential
histograms: each power of two is cut into `sub` equal parts, so a value is known to a relative error of at most 1/(2*sub)
(`RELATIVE_ERROR`, 1.6 %, for what is written today). Merging is adding counts, so a fleet's quantile is a quantile and never an
average of quantiles. Histograms of unequal `sub` merge on the coarser grid, whose every bucket is a whole number of the finer ones.

Every field that is not in the first form of the wire has a default, and defaults are not written: what an older agent sends is
read, and an idle device's sample is small.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

KIND = "telemetry"
ACK = "telemetry-ack"
Sub = Literal[16, 32]
"""Parts each power of two is cut into; 16 in histograms that do not say."""
SUB: Sub = 32
RELATIVE_ERROR = 1 / (2 * SUB)
UNIT = 1e-6
"""Everything below it falls into the first bucket: one microsecond, a millionth of a score."""
OCTAVES = 40
"""Powers of two above `UNIT`, 12 days; what is beyond falls into the last bucket."""
MOST = 2**53

Index = Annotated[int, msgspec.Meta(ge=0, le=OCTAVES * SUB)]
Number = Annotated[int, msgspec.Meta(ge=0, le=MOST)]


class Histogram(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counts by bucket index, with their number and the sum of the values; seconds where nothing else is said.

    Raises:
        ValueError: `count` is not the sum of the buckets (msgspec: ValidationError, on the wire).

    """

    count: Number = 0
    sum: float = 0.0
    buckets: dict[Index, Number] = {}
    sub: Sub = 16

    def __post_init__(self) -> None:
        """A quantile of counts that do not add up would be a lie."""
        if self.count != sum(self.buckets.values()):
            raise ValueError("count is not the sum of the buckets")


def bucket_of(value: float, sub: int = SUB) -> int:
    """Index of the bucket that holds `value`; what is no number falls into the first."""
    scaled = value / UNIT
    if not scaled >= 1.0:
        return 0
    mantissa, exponent = math.frexp(scaled)
    if exponent > OCTAVES or scaled == math.inf:
        return OCTAVES * sub
    return 1 + (exponent - 1) * sub + int((mantissa * 2.0 - 1.0) * sub)


def bounds_of(index: int, sub: int = SUB) -> tuple[float, float]:
    """Lower and upper bound of a bucket; the last one holds everything above, too."""
    if index <= 0:
        return 0.0, UNIT
    exponent, part = divmod(index - 1, sub)
    low = 2.0**exponent * (1 + part / sub)
    return low * UNIT, (low + 2.0**exponent / sub) * UNIT


def histogram_of(values: Iterable[float]) -> Histogram:
    """The values, counted; the sum is of those that are numbers, because JSON has no word for the others."""
    buckets: dict[int, int] = {}
    count, total = 0, 0.0
    for value in values:
        index = bucket_of(value)
        buckets[index] = buckets.get(index, 0) + 1
        count += 1
        total += value if math.isfinite(value) else 0.0
    return Histogram(count=count, sum=total, buckets=buckets, sub=SUB)


def observe(histogram: Histogram, value: float) -> Histogram:
    """The histogram with one more value."""
    return merged((histogram, histogram_of((value,))))


def coarsened(histogram: Histogram, sub: Sub) -> Histogram:
    """The same counts on a grid of `sub` parts; a finer grid than the histogram's own cannot be had, and is not given."""
    if histogram.sub <= sub:
        return histogram
    factor = histogram.sub // sub
    buckets: dict[int, int] = {}
    for index, n in histogram.buckets.items():
        coarse = (index - 1) // factor + 1
        buckets[coarse] = buckets.get(coarse, 0) + n
    return Histogram(count=histogram.count, sum=histogram.sum, buckets=buckets, sub=sub)


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """All counts added up, on the coarsest grid among those that hold anything."""
    full = [histogram for histogram in histograms if histogram.count]
    sub: Sub = min((histogram.sub for histogram in full), default=16)
    count, total, buckets = 0, 0.0, dict[int, int]()
    for histogram in full:
        count += histogram.count
        total += histogram.sum
        for index, n in coarsened(histogram, sub).buckets.items():
            buckets[index] = buckets.get(index, 0) + n
    return Histogram(count=count, sum=total, buckets=buckets, sub=sub)


def quantile(histogram: Histogram, q: float) -> float | None:
    """The `q` quantile: the middle of the bucket that holds the value of rank ceil(q * count); None for an empty histogram.

    Within `1/(2*sub)` of that value, relatively; within `UNIT` where it is below `UNIT`.
    """
    rank, seen = max(1, math.ceil(q * histogram.count)), 0
    for index in sorted(histogram.buckets):
        seen += histogram.buckets[index]
        if seen >= rank:
            return sum(bounds_of(index, histogram.sub)) / 2
    return None


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


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """Requests computed on the device and in the cloud that ended alike: `agree` or `differ`, and in what."""

    model: str
    version: str
    cloud_version: str
    result: str
    reason: str
    count: int


class Work(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one version computed on the device since the last sample.

    `queue`: seconds each item waited; `compute`: seconds each batch took; `sizes`: items of each batch; `confidence`: the
    probability of each answer, 0 to 1. What is empty is best not given: msgspec leaves out a default that is a struct by identity.
    """

    model: str
    version: str
    queue: Histogram = Histogram()
    compute: Histogram = Histogram()
    sizes: Histogram = Histogram()
    confidence: Histogram = Histogram()


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """How one version's answers of one label were scored since the last sample, 0 to 1. A label is the model's word, never text."""

    model: str
    version: str
    label: str
    scores: Histogram


class StepCount(msgspec.Struct, frozen=True, kw_only=True):
    """Steps of convergence (`fetch`, `load`, ...) that ended alike since the last sample, and the seconds they took."""

    step: str
    outcome: str
    seconds: Histogram


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something worth a line of its own, at Unix seconds of the device: `converged`, `failed`, ..., of what, and in a few words."""

    at: float
    kind: str
    subject: str = ""
    detail: str = ""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """An accelerator: fraction of 1 of its time in use, bytes of its memory."""

    name: str
    utilization: float
    memory_bytes: int
    memory_total_bytes: int


class Host(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the device is doing: fractions of 1 for CPU and memory, bytes for disk; 0 for a disk's size that is not told."""

    cpu: float
    memory: float
    disk_free_bytes: int
    agent_memory_bytes: int
    temperature_c: float | None = None
    disk_total_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One interval of one device, Unix seconds of its clock.

    `seq` rises by one per sample, over all epochs, and is never reused. `dropped` counts, by reason, samples lost since the last
    one. One that has `events` has nothing else to tell: they travel by themselves, since they are kept the longest.
    """

    seq: int
    started_at: float
    ended_at: float
    host: Host
    requests: tuple[RequestCount, ...] = ()
    shed: dict[str, int] = {}
    dropped: dict[str, int] = {}
    shadows: tuple[ShadowCount, ...] = ()
    work: tuple[Work, ...] = ()
    scores: tuple[Scores, ...] = ()
    disagreements: tuple[Disagreement, ...] = ()
    cache: dict[str, int] = {}
    steps: tuple[StepCount, ...] = ()
    converged: Histogram = Histogram()
    events: tuple[Event, ...] = ()


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What one telemetry message carries. The cloud upserts on (device, epoch, seq)."""

    epoch: int
    samples: tuple[Sample, ...]


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """The watermark: every sample of `epoch` up to and including `seq` is durable in the cloud."""

    epoch: int
    seq: int
