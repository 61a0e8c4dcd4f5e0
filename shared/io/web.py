"""The HTTP server pieces every process uses: errors in the right shape, request ids, bodies as JSON; and `Site`, which listens.

Invariants:

* every error leaves as one of three shapes, chosen by path (`shared.io.problems.shape_of`);
* a client never sees a traceback; an exception outside the taxonomy is logged once, with the request's id, and is a 500;
* every response carries `X-Request-Id`, the caller's own where it is well formed, and none names the software behind it;
* no body is read past its limit (`shared.io.web_body`).
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec
from aiohttp import hdrs, web

from shared.io.logs import Log
from shared.io.problems import (
    JSON,
    PROBLEM,
    Shape,
    error_response,
    failure_of,
    json_response,
    openai_envelope,
    problem_response,
    shape_of,
)
from shared.io.request_ids import REQUEST_ID, request_id_of
from shared.io.web_body import LARGE, MAX_BODY, expecting, off_the_loop, read_body
from shared.io.web_door import Limits
from shared.io.web_site import Handler, Site
from shared.protocol.errors import Corrupt, Refusal, Refused, TidelineError
from shared.protocol.topics import Header

__all__ = [
    "JSON",
    "LARGE",
    "MAX_BODY",
    "PROBLEM",
    "REQUEST_ID",
    "Handler",
    "Limits",
    "Shape",
    "Site",
    "bad_json",
    "check_media_type",
    "error_response",
    "errors",
    "expecting",
    "failure_of",
    "json_of",
    "json_response",
    "middlewares",
    "off_the_loop",
    "openai_envelope",
    "problem_response",
    "read_body",
    "read_json",
    "request_ids",
    "shape_of",
]

T = TypeVar("T")


def middlewares(
    log: Log, shape_for: Callable[[str], Shape] = shape_of
) -> list[Callable[..., Awaitable[web.StreamResponse]]]:
    """What every application starts with, outermost first: request ids, then errors."""
    return [request_ids, errors(log, shape_for)]


@web.middleware
async def request_ids(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id: the caller's where it is well formed, else a new UUID; logs of the request carry it."""
    request[REQUEST_ID] = request_id_of(request.headers.get(Header.REQUEST_ID))
    return await handler(request)


def errors(log: Log, shape_for: Callable[[str], Shape] = shape_of) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that turns every exception into a response of the path's shape."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return error_response(error, shape_for(request.path), request_id=request.get(REQUEST_ID))
        except TidelineError as error:
            # Refusals, overload and missed deadlines are counted where they happen: a flood of them must not become a flood of lines.
            if isinstance(error, Corrupt):
                log.exception("request failed", path=request.path, code=error.code, error=error.message)
            return error_response(error, shape_for(request.path), request_id=request.get(REQUEST_ID))
        except Exception as error:
            log.exception("unexpected error in a request", path=request.path, method=request.method)
            return error_response(error, shape_for(request.path), request_id=request.get(REQUEST_ID))

    return middleware


async def read_json(request: web.Request, into: type[T], *, limit: int = MAX_BODY, optional: bool = False) -> T:
    """The body as `into`; an absent body is `{}` where it is `optional`.

    Raises:
        Refused: another media type than JSON (415), too large (413), not JSON or a field of the wrong type (400), naming it.

    """
    # Saying nothing is taken as JSON, and a body that may be absent and is has no type to check.
    if hdrs.CONTENT_TYPE in request.headers and (request.body_exists or not optional):
        check_media_type(request.content_type, JSON)
    body = await read_body(request, limit)
    return await off_the_loop(request, len(body), partial(json_of, body or b"{}" if optional else body, into))


def check_media_type(given: str, *allowed: str) -> None:
    """Refuse a media type that is none of `allowed`."""
    if given not in allowed and not (JSON in allowed and given.endswith("+json")):
        raise Refused(
            "unsupported media type",
            kind=Refusal.MEDIA_TYPE,
            field="Content-Type",
            value=given,
            allowed=", ".join(allowed),
        )


def json_of(body: bytes, into: type[T]) -> T:
    """JSON `body` as `into`; the refusal names the field as `texts[0]`, without a leading `$`."""
    try:
        return msgspec.json.decode(body, type=into)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_json(error) from error


def bad_json(error: Exception) -> Refused:
    """The refusal of a body msgspec complains of: the field it names, a missing one included."""
    text, _, path = str(error).partition(" - at `")
    field = path.rstrip("`").removeprefix("$").removeprefix(".")
    for phrase in ("missing required field `", "unknown field `"):
        if phrase in text:
            name = text.partition(phrase)[2].rstrip("`")
            field = f"{field}.{name}" if field else name
    return Refused(f"malformed JSON body: {text}", field=field or "body")
