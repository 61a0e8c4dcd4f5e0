"""`/api/v1/events`: what changes, as Server-Sent Events; a client that comes back with `Last-Event-ID` misses nothing."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from aiohttp import hdrs, web

from cloud_core.api.routes import Call, Needs, Route, Scope, document
from cloud_core.decide.access import Resource, Verb
from cloud_core.store.events import Event
from shared.protocol.errors import Refused

PATH = "/api/v1/events"
LAST = "Last-Event-ID"
HEARTBEAT_S = 15.0


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """The data of one event: `kind` happened to `name` of `resource`."""

    id: int
    at: float
    kind: str
    resource: str
    name: str
    data: msgspec.Raw | None


async def followed(call: Call) -> web.StreamResponse:
    """Events until the client leaves, its token ends or the server stops."""
    last = _last(call)
    response = web.StreamResponse(headers={hdrs.CACHE_CONTROL: "no-store", "X-Accel-Buffering": "no"})
    response.content_type = "text/event-stream"
    async with aclosing(call.api.feed.follow(call.tenant, last)) as source:
        start = await anext(source)
        await response.prepare(call.request)
        # The id to resume from, even before anything happened; another one than was asked for says: look at everything anew.
        lost = last is not None and start != last
        await response.write(b"retry: 1000\n" + (b"event: reset\n" if lost else b"") + f"id: {start}\n\n".encode())
        await _pump(call, source, response)
    return response


async def _pump(call: Call, source: AsyncGenerator[Event | int], response: web.StreamResponse) -> None:
    expires = call.principal.expires_at
    upcoming: asyncio.Future[Event | int] = asyncio.ensure_future(anext(source))
    try:
        while expires is None or call.api.clock.wall() < expires:
            done, _ = await asyncio.wait((upcoming,), timeout=HEARTBEAT_S)
            if not done:
                await response.write(b": beat\n\n")
                continue
            event = upcoming.result()
            if isinstance(event, Event):
                view = EventView(
                    id=event.id,
                    at=event.at,
                    kind=event.kind,
                    resource=event.resource,
                    name=event.name,
                    data=document(event.data),
                )
                await response.write(b"id: %d\ndata: %s\n\n" % (event.id, msgspec.json.encode(view)))
            upcoming = asyncio.ensure_future(anext(source))
    except (StopAsyncIteration, ConnectionError):
        return  # the server stops, or the client went away
    finally:
        upcoming.cancel()
        await asyncio.wait((upcoming,))


def _last(call: Call) -> int | None:
    text = call.request.headers.get(LAST, "")
    if not text:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise Refused("not the id of an event", field=LAST, value=text, allowed="a number this stream sent")
    return int(text)


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    return (
        Route(
            method="GET", path=PATH, access=Needs(Verb.READ, Resource.EVENTS), scope=Scope.NONE, run=followed,
            summary="What changes, as Server-Sent Events whose data is an Event", answer=EventView,
            media=("text/event-stream",),
        ),
    )  # fmt: skip
