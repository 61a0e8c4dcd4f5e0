"""`/api/v1/telemetry/live`: the newest windows of a metric and who is there, as Server-Sent Events.

Each event is a level: it says all there is to draw now, and a client that missed some has missed nothing. Nothing is queued for a
client: a slow one is looked up less often, and one that takes nothing for `PATIENCE_S` is let go.
"""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
from aiohttp import hdrs, web

from cloud_core.api.events import HEARTBEAT_S
from cloud_core.api.routes import Call, Needs, Route, Scope
from cloud_core.api.telemetry import PATH, Point
from cloud_core.api.telemetry_query import metric_of, quantiles_of, selector_of
from cloud_core.decide.access import Resource, Verb
from cloud_core.decide.ranges import Span
from cloud_core.decide.reading import reading
from cloud_core.store import history
from cloud_core.store.database import read
from cloud_core.store.history import DEVICE, Selector
from shared.protocol.errors import Transient

EVERY_S = 2.0
WINDOWS = 3
"""The running window, and those before it that may still grow."""
PATIENCE_S = 30.0


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """The newest windows that have values, oldest first, and devices by presence."""

    points: Sequence[Point]
    presence: Mapping[str, int]


async def live(call: Call) -> web.StreamResponse:
    """What changes, every two seconds, until the client leaves, its token ends or the server stops."""
    metric, qs = metric_of(call), quantiles_of(call)
    selector = await selector_of(call)
    with call.api.watchers.watching(call.tenant):
        said = await _look(call, selector, metric, qs)
        response = web.StreamResponse(headers={hdrs.CACHE_CONTROL: "no-store", "X-Accel-Buffering": "no"})
        response.content_type = "text/event-stream"
        await response.prepare(call.request)
        try:
            await _write(response, b"retry: 1000\n" + _event(said))
            quiet = 0.0
            while call.principal.expires_at is None or call.api.clock.wall() < call.principal.expires_at:
                if await call.api.feed.ends_within(EVERY_S):
                    break
                found = await _look(call, selector, metric, qs)
                quiet += EVERY_S
                if found != said or quiet >= HEARTBEAT_S:
                    await _write(response, _event(found) if found != said else b": beat\n\n")
                    said, quiet = found, 0.0
        except (ConnectionError, TimeoutError):
            pass  # the client went away, or takes nothing
        except Transient as error:
            call.api.log.info("a live stream ends", error=error.message)
    return response


async def _look(call: Call, selector: Selector, metric: str, qs: Sequence[float]) -> Live:
    seconds = 60 if selector.scope == DEVICE else 10
    end = (int(call.api.clock.wall()) // seconds + 1) * seconds
    async with read(call.api.engine) as connection:
        found = await history.read(connection, selector, [Span(seconds, end - WINDOWS * seconds, end)])
    cells = await asyncio.to_thread(history.summed, found, lambda one: one.started_at)
    points = [
        Point(at=at, seconds=seconds, value=value)
        for at, cell in sorted(cells.items())
        if (value := reading(cell, metric, qs)) is not None
    ]
    return Live(points=points, presence=await call.api.watchers.presence(call.tenant))


def _event(said: Live) -> bytes:
    return b"data: " + msgspec.json.encode(said) + b"\n\n"


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await response.write(data)


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    return (
        Route(
            method="GET", path=PATH + "/live", access=Needs(Verb.READ, Resource.TELEMETRY), scope=Scope.NONE, run=live,
            query=("metric", "model", "version", "where", "group", "device", "q"), answer=Live,
            media=("text/event-stream",),
            summary="The newest windows of a metric and devices by presence, as Server-Sent Events whose data is a Live",
        ),
    )  # fmt: skip
