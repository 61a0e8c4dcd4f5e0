"""What a device's newest samples say, in one value: what the fleet's lists and the dashboard show. Pure."""

from collections.abc import Sequence

import msgspec

from shared.protocol.telemetry import Histogram, Host, Sample, merged, quantile

OK = "ok"
"""The outcome of a request that was answered; every other one is an error."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of some samples added up, and the newest look at the host. Times in seconds; `rate` is requests per second."""

    started_at: float
    ended_at: float
    requests: int
    errors: int
    where: dict[str, int]
    """Requests by where they were answered: local, cloud, cache."""
    shed: int
    dropped: int
    rate: float
    p50: float | None
    p99: float | None
    latency: Histogram
    host: Host


def summary_of(samples: Sequence[Sample]) -> Summary | None:
    """The samples of one device, in any order, in one value; None for no sample."""
    if not samples:
        return None
    newest = max(samples, key=lambda sample: sample.ended_at)
    started_at = min(sample.started_at for sample in samples)
    counts = [count for sample in samples for count in sample.requests]
    latency = merged(count.latency for count in counts)
    where: dict[str, int] = {}
    for count in counts:
        where[count.where] = where.get(count.where, 0) + count.count
    requests = sum(count.count for count in counts)
    seconds = newest.ended_at - started_at
    return Summary(
        started_at=started_at,
        ended_at=newest.ended_at,
        requests=requests,
        errors=sum(count.count for count in counts if count.outcome != OK),
        where=where,
        shed=sum(sum(sample.shed.values()) for sample in samples),
        dropped=sum(sum(sample.dropped.values()) for sample in samples),
        rate=requests / seconds if seconds > 0 else 0.0,
        p50=quantile(latency, 0.5),
        p99=quantile(latency, 0.99),
        latency=latency,
        host=newest.host,
    )
