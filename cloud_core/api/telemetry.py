"""`/api/v1/telemetry`: series, quantiles, the largest of something, and two versions side by side on the same devices.

Histograms of all that is asked about are merged before a quantile is read: a fleet's P99 is a P99.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from cloud_core.api.paging import QUERY, after_of, limit_of, page_of, page_within
from cloud_core.api.routes import Call, Needs, Page, Reply, Route, Scope
from cloud_core.api.telemetry_query import (
    SELECTOR,
    dimensions_of,
    metric_of,
    quantiles_of,
    range_of,
    selector_of,
    spans_of,
    steps_of,
)
from cloud_core.decide.access import Resource, Verb
from cloud_core.decide.comparison import Comparison, compared, side
from cloud_core.decide.ranges import Span
from cloud_core.decide.reading import HISTOGRAMS, Reading, reading
from cloud_core.decide.rollup import Cell, added
from cloud_core.store import history
from cloud_core.store.history import DEVICE, Found
from shared.protocol.errors import Refused
from shared.protocol.telemetry import Histogram

PATH = "/api/v1/telemetry"
MOST = 100
RANKS = ("count", "sum", "mean", "most")


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One window of a series that has values: when it began (Unix seconds) and how long it is."""

    at: int
    seconds: int
    value: Reading


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A metric over a range, of one combination of what was asked `by`; the range is the one that windows answer for."""

    by: dict[str, str]
    started_at: int
    ended_at: int
    value: Reading


class CompareView(msgspec.Struct, frozen=True, kw_only=True):
    """Two versions of a model, on the devices that ran both in the range."""

    model: str
    metric: str
    started_at: int
    ended_at: int
    devices: int
    comparison: Comparison


async def series(call: Call) -> Reply:
    """A page of points, oldest first; windows without values are left out."""
    metric, qs, range_ = metric_of(call), quantiles_of(call), range_of(call)
    limit, after = limit_of(call), after_of(call)
    selector = await selector_of(call)
    span = steps_of(call, range_, selector.scope)
    if after:
        span = span._replace(start=max(span.start, _whole(after) + span.seconds))
    points: list[Point] = []
    windows = limit + 1
    while span.start < span.end and len(points) <= limit:
        # No more than a page needs, unless much of it is empty.
        some = span._replace(end=min(span.end, span.start + windows * span.seconds))
        found = await history.read(call.connection, selector, [some])
        cells = await asyncio.to_thread(history.summed, found, lambda one: one.started_at)
        points += [
            Point(at=at, seconds=span.seconds, value=value)
            for at, cell in sorted(cells.items())
            if (value := reading(cell, metric, qs)) is not None
        ]
        span, windows = span._replace(start=some.end), windows * 2
    return Reply(value=page_of(points, limit, key=lambda point: str(point.at), view=lambda point: point))


async def quantiles(call: Call) -> Reply:
    """A page of lines, by what they are told apart by."""
    lines = await _lines(call, dimensions_of(call))
    return Reply(value=page_within(call, lines, key=_named, view=lambda line: line))


async def top(call: Call) -> Reply:
    """The lines with the most of something, largest first."""
    k, rank = _k(call), call.request.query.get("rank")
    by = dimensions_of(call, default="device")
    metric, qs = metric_of(call), quantiles_of(call)
    ranks = (*RANKS, *(f"q{q}" for q in qs))
    if rank is None:
        rank = f"q{qs[-1]}" if metric.partition("/")[0] in HISTOGRAMS else "count"
    if rank not in ranks:
        raise Refused("nothing to rank by", field="rank", value=rank, allowed=", ".join(ranks))
    lines = sorted(await _lines(call, by), key=lambda line: (-line.value.ranked(rank), _named(line)))
    return Reply(value=Page(items=tuple(lines[:k])))


async def comparison(call: Call) -> Reply:
    """Two versions of a model on the devices that ran both."""
    metric, range_ = metric_of(call), range_of(call)
    if metric.partition("/")[0] not in HISTOGRAMS:
        raise Refused("no distribution", field="metric", value=metric, allowed=", ".join(HISTOGRAMS))
    model, base, candidate = (_required(call, name) for name in ("model", "base", "candidate"))
    if base == candidate:
        raise Refused("one version twice", field="candidate", value=candidate, allowed="another version than `base`")
    selector = (await selector_of(call, ("device",)))._replace(model=model, versions=[base, candidate])
    spans = spans_of(call, range_, DEVICE)
    found = await history.read(call.connection, selector, spans)
    cells = await asyncio.to_thread(history.summed, found, lambda one: (one.name, one.key.version))
    ran = {
        version: {name for (name, of), cell in cells.items() if of == version and _ran(cell, metric)}
        for version in (base, candidate)
    }
    both = ran[base] & ran[candidate]
    sides, values = [], []
    for version in (base, candidate):
        whole = added(cells[name, version] for name in sorted(both))
        values.append(whole.histograms.get(metric, Histogram()))
        requests, errors = whole.counts.get("requests", 0), whole.counts.get("errors", 0)
        sides.append(side(version, requests=requests, errors=errors, histogram=values[-1]))
    view = CompareView(
        model=model,
        metric=metric,
        started_at=spans[0].start,
        ended_at=spans[-1].end,
        devices=len(both),
        comparison=compared(*sides, base_values=values[0], candidate_values=values[1]),
    )
    return Reply(value=view)


async def _lines(call: Call, by: Sequence[str]) -> list[Line]:
    metric, qs, range_ = metric_of(call), quantiles_of(call), range_of(call)
    selector = await selector_of(call, by)
    spans = spans_of(call, range_, selector.scope)
    found = await history.read(call.connection, selector, spans)

    def key(one: Found) -> tuple[str, ...]:
        known = {
            "model": one.key.model,
            "version": one.key.version,
            "where": one.key.place,
            "group": one.name,
            "device": one.name,
        }
        return tuple(known[name] for name in by)

    cells = await asyncio.to_thread(history.summed, found, key)
    lines = [
        _line(by, names, spans, value)
        for names, cell in cells.items()
        if (value := reading(cell, metric, qs)) is not None
    ]
    return sorted(lines, key=_named)


def _line(by: Sequence[str], names: tuple[str, ...], spans: Sequence[Span], value: Reading) -> Line:
    return Line(by=dict(zip(by, names, strict=True)), started_at=spans[0].start, ended_at=spans[-1].end, value=value)


def _named(line: Line) -> str:
    return "\n".join(("by", *line.by.values()))


def _ran(cell: Cell, metric: str) -> bool:
    return cell.counts.get("requests", 0) > 0 or metric in cell.histograms


def _required(call: Call, name: str) -> str:
    value = call.request.query.get(name)
    if not value:
        raise Refused("missing parameter", field=name, allowed="a name")
    return value


def _whole(after: str) -> int:
    if not after.isdecimal() or len(after) > 12:
        raise Refused("not a cursor of this list", field="cursor", value=after, allowed="`next` of a page")
    return int(after)


def _k(call: Call) -> int:
    text = call.request.query.get("k", "10")
    if not text.isdecimal() or not 1 <= int(text[:9]) <= MOST:
        raise Refused("not how many", field="k", value=text, allowed=f"1 to {MOST}")
    return int(text)


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    read = Needs(Verb.READ, Resource.TELEMETRY)
    return (
        Route(
            method="GET", path=PATH + "/series", access=read, scope=Scope.READ, run=series,
            query=(*QUERY, *SELECTOR, "step", "q"), answer=Page[Point],
            summary="A metric over time, in steps of 10, 60 or 3600 seconds",
        ),
        Route(
            method="GET", path=PATH + "/quantiles", access=read, scope=Scope.READ, run=quantiles,
            query=(*QUERY, *SELECTOR, "q", "by"), answer=Page[Line],
            summary="A metric over a range, merged; told apart `by` model, version, where, group or device",
        ),
        Route(
            method="GET", path=PATH + "/top", access=read, scope=Scope.READ, run=top,
            query=(*SELECTOR, "q", "by", "k", "rank"), answer=Page[Line],
            summary="The k devices, groups, models, versions or places (`by`) with the most of something",
        ),
        Route(
            method="GET", path=PATH + "/comparison", access=read, scope=Scope.READ, run=comparison,
            query=("metric", "model", "base", "candidate", "where", "group", "device", "from", "to"), answer=CompareView,
            summary="Two versions of a model on the devices that ran both",
        ),
    )  # fmt: skip
