"""Errors on their way out over HTTP: which status, which shape of body, which headers.

Three shapes, chosen by path (`shape_of`): `{"error": "…"}` under `/v2`, OpenAI's envelope under
`/v1/{embeddings,completions,chat,models}`, an RFC 9457 problem document elsewhere. A bug says nothing of itself.
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import NamedTuple

import msgspec
from aiohttp import hdrs, web
from aiohttp.helpers import rfc822_formatted_time

from shared.protocol.errors import Refusal, Refused, TidelineError
from shared.protocol.status import retry_after_of, status_of
from shared.protocol.topics import Header

JSON = "application/json"
PROBLEM = "application/problem+json"
_OPENAI = ("/v1/embeddings", "/v1/completions", "/v1/chat", "/v1/models")
_RETRY_AFTER_MS = "Retry-After-Ms"
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


def refusal_without_path(error: Refused) -> web.Response:
    """The problem document of a request whose path could not be read, with OIP's `error` in it, since it may have been meant."""
    return json_response(
        _document(failure_of(error)) | {"error": error.message}, status=status_of(error).http, content_type=PROBLEM
    )


def openai_envelope(error: BaseException) -> dict[str, object]:
    """OpenAI's `{"error": {"message", "type", "param", "code"}}`, also sent inside an event stream."""
    return _openai(failure_of(error))


def _openai(failure: Failure) -> dict[str, object]:
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(failure.status, "invalid_request_error" if failure.status < 500 else "server_error")
    return {"error": {"message": failure.detail, "type": kind, "param": failure.field, "code": failure.code}}


def error_bytes(error: BaseException, shape: Shape, *, request_id: str) -> bytes:
    """`error` in `shape` as a whole HTTP/1.1 answer, for a request that was never parsed; says what `error_response` says."""
    failure = failure_of(error)
    document, kind = _told(failure, shape, request_id)
    body = _encode(document)
    headers = {
        **_headers(failure),
        hdrs.CONTENT_TYPE: kind,
        hdrs.CONTENT_LENGTH: str(len(body)),
        hdrs.DATE: rfc822_formatted_time(),
        Header.REQUEST_ID: request_id,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {failure.status} {HTTPStatus(failure.status).phrase}\r\n{lines}\r\n".encode() + body


def _response(failure: Failure, shape: Shape, request_id: str | None) -> web.Response:
    document, kind = _told(failure, shape, request_id)
    return json_response(document, status=failure.status, headers=_headers(failure), content_type=kind)


def _headers(failure: Failure) -> dict[str, str]:
    headers: dict[str, str] = {}
    if failure.retry_after is not None:
        # RFC 9110 takes whole seconds; rounding up never asks a client back too early. OpenAI's own clients look for the other.
        headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(failure.retry_after)))
        headers[_RETRY_AFTER_MS] = str(max(1, math.ceil(failure.retry_after * 1e3)))
    if failure.status == 401:
        headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    if failure.status == 405 and failure.allowed:
        headers[hdrs.ALLOW] = failure.allowed
    return headers


def _told(failure: Failure, shape: Shape, request_id: str | None) -> tuple[dict[str, object], str]:
    """The document, and its media type."""
    if shape is Shape.OIP:
        return {"error": failure.detail}, JSON
    if shape is Shape.OPENAI:
        return _openai(failure), JSON
    return _document(failure) | ({"request_id": request_id} if request_id is not None else {}), PROBLEM


def _document(failure: Failure) -> dict[str, object]:
    document: dict[str, object] = {
        "type": f"urn:tideline:problem:{failure.code}",
        "code": failure.code,
        "title": failure.code.replace("-", " ").capitalize(),
        "status": failure.status,
        "detail": failure.detail,
    }
    extras = {"field": failure.field, "allowed": failure.allowed}
    return document | {name: value for name, value in extras.items() if value is not None}


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None, content_type: str = JSON
) -> web.Response:
    """Anything msgspec encodes, as a response."""
    return web.Response(body=_encode(value), status=status, headers=headers, content_type=content_type)
