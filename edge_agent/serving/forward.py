"""A request to the cloud: one HTTP exchange with the gateway, under the request's own id and what is left of its deadline.

Invariants: nothing is sent that the breaker does not permit; whatever comes of an exchange, the caller's going away included,
the breaker is told; a refusal of the request does not count against the cloud.
"""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple, Protocol
from urllib.parse import quote

import aiohttp
import msgspec

from edge_agent.bounded import read_all
from edge_agent.decide import timeouts
from edge_agent.serving.cloud import CloudTarget
from edge_agent.serving.race import Race
from shared.io.clock import Clock
from shared.protocol.errors import Corrupt, Overloaded, Refusal, Refused, TidelineError, Transient, Unavailable
from shared.protocol.topics import Header
from shared.serving.answer import Request, Response
from shared.serving.oip import http as oip
from shared.serving.oip import tensors as oip_tensors

CONNECT_S = 1.0
"""A gateway that does not accept a connection within this time is down; shorter where the deadline is nearer."""
CONNECT_SHARE = 0.5
MAX_ANSWER = 64 * 1024 * 1024
POOL = 128
_KINDS = {
    400: Refusal.MALFORMED,
    401: Refusal.UNAUTHENTICATED,
    403: Refusal.FORBIDDEN,
    404: Refusal.NOT_FOUND,
    409: Refusal.CONFLICT,
    413: Refusal.TOO_LARGE,
    415: Refusal.MEDIA_TYPE,
    422: Refusal.UNPROCESSABLE,
}


class Tokens(Protocol):
    """Where bearer tokens come from."""

    async def token(self) -> str:
        """One that should be good."""
        ...

    def forget(self, token: str) -> None:
        """It was refused: do not give it out again."""
        ...


class Gateway(NamedTuple):
    """Where requests go, and as whom."""

    url: str
    tokens: Tokens


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class Forwarder:
    """Sends requests to the one gateway; there is none before `connect`."""

    def __init__(self, http: aiohttp.ClientSession, cloud: CloudTarget, *, clock: Clock) -> None:
        self._http = http
        self._cloud = cloud
        self._clock = clock
        self._gateway: Gateway | None = None

    def connect(self, gateway: Gateway) -> None:
        """The device is enrolled: this is its gateway."""
        self._gateway = gateway

    async def answer(self, request: Request, race: Race | None = None) -> Response:
        """The cloud's answer; the request names its version and deadline. `race`: the device is, or may be, asked at the same time.

        Raises:
            Refused: the gateway says the request is wrong, or that this device may not make it.
            Overloaded: it has no room.
            Transient: it cannot be reached, fails, or is too slow.

        """
        gateway = self._gateway
        if gateway is None:
            raise Transient("this device has no cloud", why=Unavailable.UNREACHABLE)
        began = self._clock.monotonic()
        left = request.deadline - began if request.deadline is not None else None
        if left is not None and left <= 0:
            raise Transient("no time is left for the cloud", why=Unavailable.DEADLINE)
        self._cloud.sent()
        try:
            async with asyncio.timeout(timeouts.timeout(left)):
                answer = await self._exchange(gateway, request)
            response = _response(request, answer)
        except TimeoutError as error:
            self._cloud.ran_late(request.model, self._clock.monotonic() - began)
            raise Transient("the cloud did not answer in time", why=Unavailable.DEADLINE) from error
        except Refused:
            self._cloud.refused()
            raise
        except Overloaded:
            self._cloud.shed(self._clock.monotonic() - began)
            raise
        except Transient as error:
            if error.why is Unavailable.DEADLINE:
                self._cloud.ran_late(request.model, self._clock.monotonic() - began)
            else:
                self._cloud.failed()
            raise
        except BaseException:
            if race is not None and race.decided:
                self._cloud.overtaken(request.model, self._clock.monotonic() - began)
            else:
                # The caller went away, or a bug: nothing was learnt of the cloud.
                self._cloud.abandoned()
            raise
        self._cloud.answered(request.model, self._clock.monotonic() - began, size=request.body_bytes)
        return response

    async def _exchange(self, gateway: Gateway, request: Request) -> _Answer:
        """One exchange; a token that is no longer taken is replaced once."""
        token = await _token(gateway.tokens)
        answer = await self._post(gateway, request, token)
        if answer.status == 401:
            gateway.tokens.forget(token)
            answer = await self._post(gateway, request, await _token(gateway.tokens))
        return answer

    async def _post(self, gateway: Gateway, request: Request, token: str) -> _Answer:
        message = oip.encode_request(request)
        left = request.deadline - self._clock.monotonic() if request.deadline is not None else None
        headers = dict(message.headers)
        headers["Authorization"] = f"Bearer {token}"
        headers[Header.REQUEST_ID] = request.id
        if left is not None:
            headers[Header.DEADLINE_MS] = f"{max(1.0, timeouts.timeout(left) * 1e3):.0f}"
        if request.priority:
            headers[Header.PRIORITY] = str(request.priority)
        if request.trace:
            headers[Header.TRACEPARENT] = request.trace
        connect = CONNECT_S if left is None else max(0.001, min(CONNECT_S, left * CONNECT_SHARE))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect)
        try:
            async with self._http.post(
                _url(gateway.url, request), data=message.data, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                return _Answer(answer.status, answer.headers, await read_all(answer, MAX_ANSWER))
        except aiohttp.ConnectionTimeoutError as error:
            raise Transient("the gateway does not accept connections", why=Unavailable.UNREACHABLE) from error
        except (aiohttp.ClientError, OSError) as error:
            text = f"the gateway cannot be reached: {type(error).__name__}"
            raise Transient(text, why=Unavailable.UNREACHABLE) from error


async def _token(tokens: Tokens) -> str:
    try:
        return await tokens.token()
    except Refused as error:
        # Not the caller's fault: the cloud does not know this device any more.
        raise Transient(
            f"the cloud gives this device no token: {error.message}", why=Unavailable.UNREACHABLE
        ) from error


def _url(gateway: str, request: Request) -> str:
    version = f"/versions/{quote(request.version, safe='')}" if request.version is not None else ""
    return f"{gateway.rstrip('/')}/v2/models/{quote(request.model, safe='')}{version}/infer"


def _response(request: Request, answer: _Answer) -> Response:
    if answer.status != 200:
        raise _error(answer)
    length = answer.headers.get(oip_tensors.HEADER_LENGTH)
    try:
        return oip.decode_response(answer.body, int(length) if length is not None else None, id=request.id)
    except (Corrupt, ValueError) as error:
        raise Transient(f"the gateway's answer cannot be read: {error}", why=Unavailable.UNREACHABLE) from error


def _error(answer: _Answer) -> TidelineError:
    """What the gateway's refusal means here."""
    status, said = answer.status, _said(answer.body)
    after = answer.headers.get("Retry-After", "")
    retry_after = float(after) if after.isdigit() else None
    if status == 429:
        return Overloaded(f"the cloud has no room: {said}", retry_after=retry_after or 1.0)
    if status == 504:
        return Transient(f"the cloud was too late: {said}", why=Unavailable.DEADLINE)
    if status == 401:
        return Transient(f"the cloud does not take this device's token: {said}", why=Unavailable.UNREACHABLE)
    if 400 <= status < 500 and status not in (408, 425, 499):
        return Refused(f"the cloud refused: {said}", kind=_KINDS.get(status, Refusal.MALFORMED))
    return Transient(f"the gateway answered {status}: {said}", why=Unavailable.UNREACHABLE, retry_after=retry_after)


def _said(body: bytes) -> str:
    """The gateway's own words (the protocol's `{"error": "…"}`), shortened."""
    try:
        document = msgspec.json.decode(body[:65536])
    except msgspec.DecodeError:
        return "no words"
    return str(document.get("error", "no words"))[:300] if isinstance(document, dict) else "no words"
