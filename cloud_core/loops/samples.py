"""Telemetry of many devices, written in one transaction: placed in time, kept once, acknowledged from what is then held."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

import msgspec

from cloud_core.decide.device_clock import Offset, Placed, learned, placed
from cloud_core.decide.summary import extended, summary_of
from cloud_core.decide.watermark import advance
from cloud_core.store import devices, telemetry
from cloud_core.store.database import Connection
from cloud_core.store.telemetry import Name, Row, Source, Uplink
from shared.protocol.telemetry import Ack, Batch, Sample

SUMMARY_S = 60.0
"""What the fleet's lists show of a device: its newest samples, of this many seconds at the most."""


class Sent(NamedTuple):
    """One batch as it came: when it was sent by the device's clock, and when it came by ours."""

    tenant: str
    device: str
    batch: Batch
    sent_at: float
    received_at: float

    @property
    def source(self) -> Source:
        """Whose, and of which epoch."""
        return Source(self.tenant, self.device, self.batch.epoch)

    @property
    def name(self) -> Name:
        """Whose."""
        return self.tenant, self.device


class Written(NamedTuple):
    """What became of the batches.

    `acks` are what is held once the transaction is committed; `news` says of each batch whether anything of it was new; `skipped`:
    how many samples a device no longer has that were never acknowledged; `placed`: samples by why they lie where they lie.
    """

    acks: Sequence[tuple[Name, Ack]]
    news: Sequence[bool]
    skipped: Mapping[Name, int]
    placed: Mapping[Placed, int]


async def write_samples(connection: Connection, sent: Sequence[Sent], *, now: float) -> Written:
    """Keep what is new in these batches, oldest message first; the caller took its turn and knows that the devices exist."""
    known = await telemetry.uplinks(connection, {one.source for one in sent})
    groups = await telemetry.groups_of(connection, {one.name for one in sent})
    skipped: Counter[Name] = Counter()
    placements: Counter[Placed] = Counter()
    rows: list[Row] = []
    doubtful: list[Row] = []
    for one in sent:
        uplink = heard(known.get(one.source), one)
        seqs = [sample.seq for sample in one.batch.samples]
        # Whatever is held of a source is not above its watermark: both are written in one transaction.
        is_new = uplink.seq is not None and min(seqs, default=0) > uplink.seq and len(set(seqs)) == len(seqs)
        for sample in one.batch.samples:
            moved, why = moved_to(sample, offset=uplink.clock.seconds, now=one.received_at)
            placements[why] += 1
            (rows if is_new else doubtful).append(Row(one.source, groups.get(one.name, ()), moved))
        if seqs:
            step = advance(uplink.seq, first=min(seqs), last=max(seqs))
            skipped[one.name] += step.skipped
            uplink = uplink._replace(seq=step.seq)
        known[one.source] = uplink
    new = {(row.source, row.sample.seq) for row in rows}
    await telemetry.store_new(connection, rows)
    stored = await telemetry.store(connection, doubtful)
    for row in doubtful:
        if (key := (row.source, row.sample.seq)) in stored:
            stored.remove(key)
            new.add(key)
            rows.append(row)
    await telemetry.keep_uplinks(connection, known, now=now)
    await _summarize(connection, rows, now=now)
    acks = [
        ((source.tenant, source.device), Ack(epoch=source.epoch, seq=uplink.seq))
        for source, uplink in known.items()
        if uplink.seq is not None
    ]
    return Written(acks, _news(sent, new), +skipped, placements)


def _news(sent: Sequence[Sent], new: Set[tuple[Source, int]]) -> list[bool]:
    """Which batches brought something; of two that are alike, the first."""
    owed, news = set(new), list[bool]()
    for one in sent:
        brought = {(one.source, sample.seq) for sample in one.batch.samples} & owed
        owed -= brought
        news.append(bool(brought))
    return news


def heard(known: Uplink | None, sent: Sent) -> Uplink:
    """What is known of a source once one more envelope of it came."""
    clock: Offset | None = None if known is None else known.clock
    return Uplink(
        None if known is None else known.seq, learned(clock, sent_at=sent.sent_at, received_at=sent.received_at)
    )


def moved_to(sample: Sample, *, offset: float, now: float) -> tuple[Sample, Placed]:
    """The sample where it belongs by the cloud's clock, and why there."""
    place = placed(sample.started_at, sample.ended_at, offset=offset, now=now)
    if (place.started_at, place.ended_at) == (sample.started_at, sample.ended_at):
        return sample, place.why
    return msgspec.structs.replace(sample, started_at=place.started_at, ended_at=place.ended_at), place.why


async def _summarize(connection: Connection, new: Sequence[Row], *, now: float) -> None:
    """Say in the fleet's lists how these devices are doing."""
    came: dict[Name, list[Sample]] = {}
    for row in new:
        came.setdefault((row.source.tenant, row.source.device), []).append(row.sample)
    held = await devices.summaries(connection, came.keys())
    lately = {name: [one for one in samples if one.ended_at > now - SUMMARY_S] for name, samples in came.items()}
    found = {name: summary_of(lately[name] or samples) for name, samples in came.items()}
    summaries = {
        name: extended(held.get(name), summary, most_s=SUMMARY_S)
        for name, summary in found.items()
        if summary is not None
    }
    await devices.record_telemetry(connection, summaries, now=now)
