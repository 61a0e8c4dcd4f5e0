"""A request to one replica over HTTP, as Open Inference Protocol; what went wrong comes back in our own four classes.

A failure before the replica answered is `Transient` with `UNREACHABLE`, and only that: it is what the balancer tries again and
ejects for. Cancelling a call closes its connection, which cancels the work at the replica.
"""

from collections.abc import AsyncGenerator, Mapping

import aiohttp
import msgspec
from aiohttp import hdrs

from cloud_core.gateway.completions import chunks_of, completion_body
from shared.io.clock import Clock
from shared.protocol.errors import Corrupt, Overloaded, Refused, TidelineError, Transient, Unavailable
from shared.protocol.status import REFUSALS, UNAVAILABLE
from shared.protocol.topics import Header
from shared.serving.answer import Request, Response
from shared.serving.oip.http import decode_response, encode_request
from shared.serving.oip.tensors import HEADER_LENGTH

_REFUSALS = {status.http: refusal for refusal, status in reversed(REFUSALS.items())}
_UNAVAILABLE = {status.http: why for why, status in reversed(UNAVAILABLE.items())}
_LONGEST_MESSAGE = 500
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=2.0)
"""The deadline of each request is the caller's to keep; only an address that swallows packets is given up on here."""


class ReplicaForward:
    """Implements `balancer.Forward` over one pool of connections."""

    def __init__(self, session: aiohttp.ClientSession, clock: Clock) -> None:
        self._session = session
        self._clock = clock

    async def answer(self, url: str, request: Request) -> Response:
        """The replica's whole answer."""
        body = encode_request(request)
        path = f"{url}/v2/models/{request.model}/versions/{request.version}/infer"
        try:
            headers = self._headers(request) | body.headers
            async with self._session.post(path, data=body.data, headers=headers, timeout=_TIMEOUT) as answer:
                data = await answer.read()
                if answer.status != 200:
                    raise error_of(answer.status, answer.headers, data)
                length = answer.headers.get(HEADER_LENGTH)
        except (aiohttp.ClientError, ConnectionError) as error:
            raise _unreachable(url, error) from error
        return decode_response(data, int(length) if length and length.isdecimal() else None, id=request.id)

    async def stream(self, url: str, request: Request) -> AsyncGenerator[Response, None]:
        """The replica's generated text, piece by piece."""
        headers = self._headers(request) | {hdrs.CONTENT_TYPE: "application/json"}
        try:
            async with self._session.post(
                f"{url}/v1/completions", data=completion_body(request), headers=headers, timeout=_TIMEOUT
            ) as answer:
                if answer.status != 200:
                    raise error_of(answer.status, answer.headers, await answer.read())
                async for piece in chunks_of(answer, request):
                    yield piece
        except (aiohttp.ClientError, ConnectionError) as error:
            raise _unreachable(url, error) from error

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {Header.REQUEST_ID: request.id, Header.TENANT: request.tenant}
        if request.deadline is not None:
            left = max(0.0, request.deadline - self._clock.monotonic())
            headers[Header.DEADLINE_MS] = f"{left * 1000:.0f}"
        if request.priority:
            headers[Header.PRIORITY] = str(request.priority)
        if request.trace is not None:
            headers[Header.TRACEPARENT] = request.trace
        return headers


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> TidelineError:
    """The error a replica meant by its response."""
    message = message_in(body) or f"the replica answered {status}"
    retry_after = _seconds(headers.get(hdrs.RETRY_AFTER))
    if status == 429:
        return Overloaded(message, retry_after=retry_after if retry_after is not None else 1.0)
    if status in _UNAVAILABLE:
        return Transient(message, why=_UNAVAILABLE[status], retry_after=retry_after)
    if status in _REFUSALS:
        return Refused(message, kind=_REFUSALS[status])
    if status == 502:
        return Transient(message, why=Unavailable.UNREACHABLE)
    return Corrupt(message, code="replica-failed")


def message_in(body: bytes) -> str:
    """The text of an error body in any of our shapes."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    found = document.get("error", document.get("detail", "")) if isinstance(document, dict) else ""
    text = found.get("message", "") if isinstance(found, dict) else found
    return text[:_LONGEST_MESSAGE] if isinstance(text, str) else ""


def _unreachable(url: str, error: Exception) -> Transient:
    return Transient(f"no answer from {url}: {type(error).__name__}", why=Unavailable.UNREACHABLE)


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None
