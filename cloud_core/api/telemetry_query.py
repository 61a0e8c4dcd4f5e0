"""What is asked of telemetry, checked parameter by parameter before anything is read."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from cloud_core.api.routes import MAX_PAGE, Call
from cloud_core.decide.ranges import Span, cover, widened
from cloud_core.decide.reading import METRICS, is_metric
from cloud_core.decide.rollup import RESOLUTIONS
from cloud_core.store import groups
from cloud_core.store.history import DEVICE, GROUP, KEPT_S, TENANT, Selector
from shared.protocol.errors import Refused

SELECTOR = ("metric", "model", "version", "where", "group", "device", "from", "to")
DEFAULT_S = 3600.0
LONGEST_S = 400 * 86400.0
QS = (0.5, 0.95, 0.99)
MOST_QS = 10
BY = ("model", "version", "where", "group", "device")
HOURS_ONLY_S = 3600.0
"""Over longer ranges devices alone are read in whole hours: a minute of each of a thousand is too much to read."""


class Range(NamedTuple):
    """Unix seconds, [start, end)."""

    start: float
    end: float


def metric_of(call: Call) -> str:
    """Which metric."""
    name = call.request.query.get("metric", "latency")
    if not is_metric(name):
        raise Refused(
            "no such metric", field="metric", value=name, allowed=", ".join(METRICS) + "; or a part, as errors/…"
        )
    return name


def range_of(call: Call) -> Range:
    """From when to when: the last hour where nothing is said."""
    end = _number(call, "to", call.now)
    start = _number(call, "from", end - DEFAULT_S)
    if not start < end:
        raise Refused("a range that is empty", field="from", value=start, allowed=f"before `to`, {end}")
    if end - start > LONGEST_S:
        raise Refused(
            "a range that is too long", field="from", value=start, allowed=f"at most {LONGEST_S:.0f} s before `to`"
        )
    return Range(start, end)


def quantiles_of(call: Call) -> Sequence[float]:
    """Which quantiles."""
    text = call.request.query.get("q")
    if text is None:
        return QS
    try:
        qs = [float(one) for one in text.split(",")]
    except ValueError:
        qs = []
    if not 1 <= len(qs) <= MOST_QS or not all(0.0 <= q <= 1.0 for q in qs):
        raise Refused(
            "not quantiles", field="q", value=text, allowed=f"1 to {MOST_QS} numbers from 0 to 1, with commas between"
        )
    return qs


def dimensions_of(call: Call, *, default: str = "") -> Sequence[str]:
    """By what the answer is told apart."""
    text = call.request.query.get("by", default)
    names = text.split(",") if text else []
    if any(name not in BY for name in names) or len(set(names)) < len(names) or {"group", "device"} <= set(names):
        raise Refused("not dimensions", field="by", value=text, allowed=f"{', '.join(BY)}; group or device, not both")
    return names


async def selector_of(call: Call, by: Sequence[str] = ()) -> Selector:
    """Whose history. A group's devices, where it is told apart by device, are those in it now; else what was said in it then."""
    query = call.request.query
    group, device = query.get("group"), query.get("device")
    if group is not None and device is not None:
        raise Refused("a group or a device, not both", field="device", value=device, allowed="without `group`")
    chosen = Selector(
        call.tenant,
        model=query.get("model"),
        versions=None if "version" not in query else [query["version"]],
        place=query.get("where"),
    )
    if device is not None or "device" in by:
        names = [device] if device is not None else None
        if group is not None:
            names = await groups.members(call.connection, call.tenant, group)
        return chosen._replace(scope=DEVICE, names=names)
    if group is not None or "group" in by:
        return chosen._replace(scope=GROUP, names=None if group is None else [group])
    return chosen._replace(scope=TENANT)


def spans_of(call: Call, range_: Range, scope: str) -> Sequence[Span]:
    """Which windows answer for a range."""
    seconds: Sequence[int] = RESOLUTIONS
    if scope == DEVICE:
        seconds = (3600,) if range_.end - range_.start > HOURS_ONLY_S else (60, 3600)
    return cover(*range_, kept_from={each: call.now - KEPT_S[each] for each in seconds})


def steps_of(call: Call, range_: Range, scope: str) -> Span:
    """Windows of one length over a range: of `step`, or the shortest that are kept so far back and fill no more than a page."""
    allowed = [each for each in RESOLUTIONS if scope != DEVICE or each != RESOLUTIONS[0]]
    kept = [each for each in allowed if call.now - KEPT_S[each] <= range_.start]
    text = call.request.query.get("step")
    if text is None:
        few = [each for each in kept if (range_.end - range_.start) / each <= MAX_PAGE]
        seconds = (few or kept or allowed)[0 if few else -1]
    else:
        if text not in {str(each) for each in allowed}:
            raise Refused("no such step", field="step", value=text, allowed=", ".join(str(each) for each in allowed))
        seconds = int(text)
        if seconds not in kept:
            oldest = call.now - KEPT_S[seconds]
            raise Refused(
                "no longer kept in such steps", field="from", value=range_.start, allowed=f"{oldest:.0f} or later"
            )
    return Span(seconds, *widened(*range_, seconds=seconds))


def _number(call: Call, field: str, default: float) -> float:
    text = call.request.query.get(field)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1e11:
        raise Refused("not a time", field=field, value=text, allowed="Unix seconds")
    return value
