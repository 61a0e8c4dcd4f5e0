"""Errors on their way out over HTTP: which status, which shape of body, which headers.

Three shapes, chosen by path (`shape_of`): `{"error": "…"}` under `/v2`, OpenAI's envelope under
`/v1/{embeddings,completions,chat,models}`, an RFC 9457 problem document elsewhere. A bug says nothing of itself.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec
from aiohttp import hdrs, web

from shared.protocol.errors import Refusal, Refused, TidelineError
from shared.protocol.status import retry_after_of, status_of

JSON = "application/json"
PROBLEM = "application/problem+json"
_OPENAI = ("/v1/embeddings", "/v1/completions", "/v1/chat", "/v1/models")
_encode = msgspec.json.Encoder().encode


class Shape(StrEnum):
    """What an error body looks like."""

    OIP = "oip"
    OPENAI = "openai"
    PROBLEM = "problem"


class Failure(NamedTuple):
    """An error on its way out: HTTP status, stable machine code, text for people, and what a refusal names."""

    status: int
    code: str
    detail: str
    field: str | None = None
    allowed: str | None = None
    retry_after: float | None = None


def shape_of(path: str) -> Shape:
    """The error shape of a path (contract, section 3)."""
    if path == "/v2" or path.startswith("/v2/"):
        return Shape.OIP
    if any(path == start or path.startswith(start + "/") for start in _OPENAI):
        return Shape.OPENAI
    return Shape.PROBLEM


def failure_of(error: BaseException) -> Failure:
    """What the client is told about `error`; a bug says nothing of itself."""
    if isinstance(error, Refused):
        return Failure(status_of(error).http, error.code, error.message, error.field, error.allowed)
    if isinstance(error, TidelineError):
        return Failure(status_of(error).http, error.code, error.message, retry_after=retry_after_of(error))
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Failure(405, Refusal.METHOD.value, "this path does not take that method", "method", allowed)
    if isinstance(error, web.HTTPNotFound):
        return Failure(404, Refusal.NOT_FOUND.value, "no such path", "path")
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return Failure(413, Refusal.TOO_LARGE.value, "the body is too large", "body")
    if isinstance(error, web.HTTPException):
        return Failure(error.status, error.reason.lower().replace(" ", "-"), error.reason)
    return Failure(500, "internal", "an internal error; the log has it under this request id")


def problem_response(error: BaseException, *, request_id: str | None = None) -> web.Response:
    """An RFC 9457 problem document, with `Retry-After` where the error knows when."""
    return _response(failure_of(error), Shape.PROBLEM, request_id)


def error_response(error: BaseException, shape: Shape, *, request_id: str | None = None) -> web.Response:
    """`error` in `shape`."""
    return _response(failure_of(error), shape, request_id)


def openai_envelope(error: BaseException) -> dict[str, object]:
    """OpenAI's `{"error": {"message", "type", "param", "code"}}`, also sent inside an event stream."""
    return _openai(failure_of(error))


def _openai(failure: Failure) -> dict[str, object]:
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(failure.status, "invalid_request_error" if failure.status < 500 else "server_error")
    return {"error": {"message": failure.detail, "type": kind, "param": failure.field, "code": failure.code}}


def _response(failure: Failure, shape: Shape, request_id: str | None) -> web.Response:
    headers: dict[str, str] = {}
    if failure.retry_after is not None:
        # RFC 9110 takes whole seconds; rounding up never asks a client back too early.
        headers[hdrs.RETRY_AFTER] = str(max(1, int(-(-failure.retry_after // 1))))
    if failure.status == 401:
        headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    if failure.status == 405 and failure.allowed:
        headers[hdrs.ALLOW] = failure.allowed
    if shape is Shape.OIP:
        return json_response({"error": failure.detail}, status=failure.status, headers=headers)
    if shape is Shape.OPENAI:
        return json_response(_openai(failure), status=failure.status, headers=headers)
    document: dict[str, object] = {
        "type": f"urn:tideline:problem:{failure.code}",
        "code": failure.code,
        "title": failure.code.replace("-", " ").capitalize(),
        "status": failure.status,
        "detail": failure.detail,
    }
    extras = {"field": failure.field, "allowed": failure.allowed, "request_id": request_id}
    document |= {name: value for name, value in extras.items() if value is not None}
    return json_response(document, status=failure.status, headers=headers, content_type=PROBLEM)


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None, content_type: str = JSON
) -> web.Response:
    """Anything msgspec encodes, as a response."""
    return web.Response(body=_encode(value), status=status, headers=headers, content_type=content_type)
