"""What every face takes from headers, or gRPC metadata, and gives back in them (contract, section 3)."""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec
from aiohttp import web

from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.web import MAX_BODY, REQUEST_ID
from shared.io.web_connection import Connection
from shared.protocol.errors import Refused
from shared.protocol.topics import Header
from shared.serving.answer import Answer, Request, Response
from shared.serving.catalog import Catalog
from shared.serving.faces.readiness import Readiness

PrincipalOf = Callable[[web.Request], Awaitable[str]]
"""The tenant a request is made for; raises `Refused` (unauthenticated, forbidden) where it may not be made."""

Early = Callable[[Request], None]
"""Sees a request before its body is read, with what the headers say of it (`model` is empty where the body names it, `body_bytes` what
was declared); raises `Overloaded` where nothing in the body could change that it is turned away."""

MAX_DEADLINE_MS = 86_400_000.0
MAX_ITEMS = 1024
"""Texts in one request."""


class Ports(NamedTuple):
    """What the faces of one process are given. `early`: None where every request is read before it is judged.

    `lag`: seconds that a request has waited for the event loop when it is seen; its deadline counts from before.
    """

    answer: Answer
    catalog: Catalog
    clock: Clock
    principal_of: PrincipalOf
    max_body: int = MAX_BODY
    early: Early | None = None
    lag: Callable[[], float] = lambda: 0.0


class GrpcPorts(NamedTuple):
    """What the gRPC face of one process is given.

    `tenant_of`: as `PrincipalOf`, of a call's metadata (names in any case) and whether it only looks. `message_s`: how long
    the message of a call may take to come.
    """

    answer: Answer
    catalog: Catalog
    clock: Clock
    readiness: Readiness
    tenant_of: Callable[[Mapping[str, str], bool], Awaitable[str]]
    log: Log
    max_body: int = MAX_BODY
    message_s: float = 120.0
    connections: int = 2048


async def context_of(request: web.Request, ports: Ports, *, model: str = "", version: str | None = None) -> Request:
    """A `Request` with everything but its model and items; `model` is what its path names.

    Raises:
        Refused: who asks may not, or a header is malformed.
        Overloaded: it is turned away unread.

    """
    tenant = await ports.principal_of(request)
    now = ports.clock.monotonic() - ports.lag()
    context = context_in(request.headers, id=request[REQUEST_ID], tenant=tenant, version=version, now=now)
    if ports.early is not None and not (isinstance(request.protocol, Connection) and request.protocol.judged):
        ports.early(msgspec.structs.replace(context, model=model, body_bytes=request.content_length or 0))
    return context


def context_in(headers: Mapping[str, str], *, id: str, tenant: str, version: str | None, now: float) -> Request:
    """What `headers` (names in any case) say of a request that came at `now` (monotonic seconds).

    Raises:
        Refused: a header is malformed.

    """
    deadline = _number(headers.get(Header.DEADLINE_MS), Header.DEADLINE_MS)
    privacy = headers.get(Header.PRIVACY)
    if privacy is not None and (len(privacy) > 128 or not privacy.isprintable()):
        raise Refused("no tags", field=Header.PRIVACY, value=privacy, allowed="at most 128 characters that can be read")
    trace = headers.get(Header.TRACEPARENT)
    if trace is not None and (len(trace) > 128 or not (trace.isascii() and trace.isprintable())):
        # W3C Trace Context: what cannot be read is passed over, and never handed on.
        trace = None
    priority = headers.get(Header.PRIORITY)
    if priority is not None and not (priority.isascii() and priority.isdigit() and len(priority) < 10):
        raise Refused(
            "not a whole number", field=Header.PRIORITY, value=priority, allowed="0 (default), 1 (highest), …"
        )
    return Request(
        id=id,
        tenant=tenant,
        model="",
        version=version,
        deadline=now + deadline / 1e3 if deadline is not None else None,
        priority=int(priority) if priority is not None else 0,
        privacy=privacy,
        trace=trace,
    )


def headers_of(response: Response) -> dict[str, str]:
    """The headers of an answer."""
    headers = {
        Header.WHERE: response.where.value,
        Header.WHY: response.why,
        Header.MODEL: f"{response.model}@{response.version}/{response.variant}",
        Header.QUEUE_MS: f"{response.timing.queue * 1e3:.3f}",
        Header.COMPUTE_MS: f"{response.timing.compute * 1e3:.3f}",
    }
    if response.hedged:
        headers[Header.HEDGED] = "true"
    return headers


def checked_count(texts: tuple[str, ...], field: str) -> tuple[str, ...]:
    """Refuse an empty list, or more texts than one request may bring."""
    if not 0 < len(texts) <= MAX_ITEMS:
        raise Refused("wrong number of texts", field=field, value=len(texts), allowed=f"1 to {MAX_ITEMS}")
    return texts


def _number(text: str | None, field: str) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MAX_DEADLINE_MS:
        raise Refused("not a time", field=field, value=text, allowed=f"0 to {MAX_DEADLINE_MS:.0f} milliseconds")
    return value
