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


def extended(held: Summary | None, new: Summary, *, most_s: float) -> Summary:
    """What is held of a device with what came: both together while that is no more than `most_s` long, else the later alone."""
    if held is None or new.ended_at - held.started_at > most_s:
        return new
    if held.ended_at - new.started_at > most_s:
        return held
    started_at, ended_at = min(held.started_at, new.started_at), max(held.ended_at, new.ended_at)
    latency = merged((held.latency, new.latency))
    requests = held.requests + new.requests
    seconds = ended_at - started_at
    return Summary(
        started_at=started_at,
        ended_at=ended_at,
        requests=requests,
        errors=held.errors + new.errors,
        where={at: held.where.get(at, 0) + new.where.get(at, 0) for at in (*held.where, *new.where)},
        shed=held.shed + new.shed,
        dropped=held.dropped + new.dropped,
        rate=requests / seconds if seconds > 0 else 0.0,
        p50=quantile(latency, 0.5),
        p99=quantile(latency, 0.99),
        latency=latency,
        host=new.host if new.ended_at >= held.ended_at else held.host,
    )


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
