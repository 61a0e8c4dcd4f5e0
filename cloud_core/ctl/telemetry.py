"""`fleetctl telemetry`: what the fleet measured: over time, merged, the largest of something, and two versions side by side."""

import datetime as dt
import re
import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from cloud_core.ctl.client import Client, path
from cloud_core.ctl.output import AsJson, called, say, table

cli = typer.Typer(
    no_args_is_help=True, help="What the fleet measured; quantiles are merged over devices, never averaged."
)
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
SECONDS = ("latency", "queue", "compute", "steps", "convergence")
"""Metrics that are seconds, shown in milliseconds."""
Metric = Annotated[str, typer.Option(help="latency, requests, errors/…, cpu and so on.")]
Model = Annotated[str | None, typer.Option(help="Only of this model.")]
Version = Annotated[str | None, typer.Option(help="Only of this version.")]
Where = Annotated[str | None, typer.Option(help="Only what was computed here: local, cloud or cache.")]
InGroup = Annotated[str | None, typer.Option("--group", help="Only of this group.")]
OnDevice = Annotated[str | None, typer.Option("--device", help="Only of this device.")]
Since = Annotated[str, typer.Option(help="How far back: 90s, 30min, 6h, 7d.")]
Quantiles = Annotated[str, typer.Option("--q", help="Which quantiles, with commas between.")]


class Value(msgspec.Struct, frozen=True):
    """What fleetctl needs of a reading."""

    count: int
    mean: float | None = None
    quantiles: dict[str, float | None] = {}
    least: float | None = None
    most: float | None = None


class Point(msgspec.Struct, frozen=True):
    """One window of a series."""

    at: int
    seconds: int
    value: Value


class Line(msgspec.Struct, frozen=True):
    """A whole range, of one combination."""

    by: dict[str, str]
    value: Value


@cli.command()
def series(
    context: typer.Context,
    *,
    metric: Metric = "latency",
    model: Model = None,
    version: Version = None,
    where: Where = None,
    group: InGroup = None,
    device: OnDevice = None,
    since: Since = "1h",
    step: Annotated[str | None, typer.Option(help="Seconds of each line: 10, 60 or 3600.")] = None,
    q: Quantiles = "0.5,0.95,0.99",
    as_json: AsJson = False,
) -> None:
    """Show a metric over time."""
    query = _query(metric=metric, model=model, version=version, where=where, group=group, device=device, step=step, q=q)
    found = called(context, lambda client: _pages(client, "series", query | _range(since)))
    points = msgspec.convert(found, list[Point])
    rows = [(_time(point.at), *_cells(metric, point.value)) for point in points]
    say(found, _shown(("FROM",), points, rows), as_json=as_json)


@cli.command()
def quantiles(
    context: typer.Context,
    *,
    metric: Metric = "latency",
    model: Model = None,
    version: Version = None,
    where: Where = None,
    group: InGroup = None,
    device: OnDevice = None,
    since: Since = "1h",
    by: Annotated[str, typer.Option(help="Told apart by: model, version, where, group or device.")] = "",
    q: Quantiles = "0.5,0.95,0.99",
    as_json: AsJson = False,
) -> None:
    """Show a metric over a whole range, merged."""
    query = _query(metric=metric, model=model, version=version, where=where, group=group, device=device, by=by, q=q)
    found = called(context, lambda client: _pages(client, "quantiles", query | _range(since)))
    _say_lines(metric, found, as_json=as_json)


@cli.command()
def top(
    context: typer.Context,
    *,
    metric: Metric = "latency",
    model: Model = None,
    version: Version = None,
    where: Where = None,
    group: InGroup = None,
    since: Since = "1h",
    by: Annotated[str, typer.Option(help="Of what: device, group, model, version or where.")] = "device",
    k: Annotated[int, typer.Option("--k", min=1, max=100, help="How many.")] = 10,
    rank: Annotated[str | None, typer.Option(help="count, sum, mean, most, or a quantile as q0.99.")] = None,
    q: Quantiles = "0.5,0.95,0.99",
    as_json: AsJson = False,
) -> None:
    """Show the largest of something."""
    query = _query(
        metric=metric, model=model, version=version, where=where, group=group, by=by, k=str(k), rank=rank, q=q
    )
    page = called(
        context, lambda client: client.get(path("telemetry", "top"), dict[str, Any], **query, **_range(since))
    )
    _say_lines(metric, page["items"], as_json=as_json)


@cli.command()
def compare(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model.")],
    base: Annotated[str, typer.Argument(help="The version it is measured against.")],
    candidate: Annotated[str, typer.Argument(help="The version that is measured.")],
    *,
    metric: Metric = "latency",
    where: Where = None,
    group: InGroup = None,
    since: Since = "1h",
    as_json: AsJson = False,
) -> None:
    """Show two versions side by side, on the devices that ran both."""
    query = _query(metric=metric, model=model, base=base, candidate=candidate, where=where, group=group)
    found = called(
        context, lambda client: client.get(path("telemetry", "comparison"), dict[str, Any], **query, **_range(since))
    )
    said = found["comparison"]
    rows = [
        (
            side["version"],
            str(side["requests"]),
            str(side["errors"]),
            _number(metric, side["mean"]),
            *(_number(metric, value) for value in side["quantiles"].values()),
        )
        for side in (said["base"], said["candidate"])
    ]
    names = (f"P{float(name) * 100:g}" for name in said["base"]["quantiles"])
    shown = table("VERSION", "REQUESTS", "ERRORS", "MEAN", *names, rows=rows)
    shown.caption = (
        f"{found['devices']} devices ran both; Kolmogorov-Smirnov {_plain(said['kolmogorov_smirnov'])}, "
        f"Wasserstein {_number(metric, said['wasserstein'])}"
    )
    shown.caption_justify = "left"
    say(found, shown if found["devices"] else "no device ran both versions in that time", as_json=as_json)


def _say_lines(metric: str, found: Sequence[Any], *, as_json: bool) -> None:
    lines = msgspec.convert(found, list[Line])
    names = tuple(lines[0].by) if lines else ()
    rows = [(*(line.by[name] for name in names), *_cells(metric, line.value)) for line in lines]
    say(found, _shown(tuple(name.upper() for name in names), lines, rows), as_json=as_json)


async def _pages(client: Client, what: str, query: dict[str, str]) -> list[Any]:
    return [item async for item in client.pages(path("telemetry", what), Any, **query)]


def _query(**given: str | None) -> dict[str, str]:
    return {name: value for name, value in given.items() if value}


def _range(since: str) -> dict[str, str]:
    """`from` and `to`, the same for every page."""
    found = re.fullmatch(r"(\d{1,9})(s|min|h|d)", since)
    if found is None:
        raise typer.BadParameter(
            f"{since!r} is not a length of time such as 90s, 30min, 6h or 7d", param_hint="--since"
        )
    now = time.time()
    return {"from": str(now - int(found[1]) * UNITS[found[2]]), "to": str(now)}


def _shown(first: Sequence[str], found: Sequence[Point | Line], rows: Sequence[Sequence[str]]) -> Any:
    if not found:
        return "nothing was measured"
    value = found[0].value
    if value.quantiles:
        names = ("COUNT", "MEAN", *(f"P{float(name) * 100:g}" for name in value.quantiles))
    else:
        names = ("COUNT",) if value.mean is None else ("LOOKS", "MEAN", "LEAST", "MOST")
    return table(*first, *names, rows=rows)


def _cells(metric: str, value: Value) -> tuple[str, ...]:
    """In the order of `_shown`'s names."""
    if value.quantiles:
        return str(value.count), *(_number(metric, each) for each in (value.mean, *value.quantiles.values()))
    if value.mean is None:
        return (str(value.count),)
    return str(value.count), *(_number(metric, each) for each in (value.mean, value.least, value.most))


def _number(metric: str, value: float | None) -> str:
    if value is None or metric.partition("/")[0] not in SECONDS:
        return _plain(value)
    return f"{value * 1000:.1f} ms"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _time(at: int) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
