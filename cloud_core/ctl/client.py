"""fleetctl's side of the REST API: requests, pages, and problem documents turned back into errors."""

import io
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from cloud_core.ctl.config import Target
from shared.protocol.errors import Corrupt, Overloaded, Refusal, Refused, TidelineError, Transient, Unavailable
from shared.protocol.status import REFUSALS

T = TypeVar("T")
KINDS = {status.http: kind for kind, status in REFUSALS.items()}


class Problem(msgspec.Struct):
    """What fleetctl needs of a problem document."""

    detail: str = ""
    code: str = ""
    field: str | None = None


def path(*segments: str) -> str:
    """`/api/v1/` and the segments, each escaped."""
    return "/api/v1/" + "/".join(quote(segment, safe="") for segment in segments)


class Client:
    """One session with the API; use it in an `async with`."""

    def __init__(self, target: Target, *, timeout_s: float = 60.0) -> None:
        self._target = target
        self._timeout = aiohttp.ClientTimeout(total=None, connect=10.0, sock_read=timeout_s)
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def get(self, where: str, into: type[T], **query: str) -> T:
        """GET, decoded."""
        return _decoded(await self._send("GET", where, query=query), into)

    async def send(
        self,
        method: str,
        where: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        patience_s: float | None = None,
    ) -> Any:
        """POST, PUT or DELETE; `body` bytes go as they are. What came back, decoded; None for nothing.

        `patience_s`: how long the answer may be waited for where it takes longer than others do.
        """
        data = body if isinstance(body, bytes) else None if body is None else msgspec.json.encode(body)
        given = {"Content-Type": "application/json"} if data is not None else {}
        answer = await self._send(method, where, data=data, headers={**given, **(headers or {})}, patience_s=patience_s)
        return _decoded(answer, Any) if answer else None

    async def pages(self, where: str, into: type[T], **query: str) -> AsyncIterator[T]:
        """Every item of a list, page after page."""
        cursor = ""
        while True:
            extra = {"cursor": cursor} if cursor else {}
            page = await self.get(where, dict[str, msgspec.Raw], limit="500", **query, **extra)
            for item in _decoded(bytes(page["items"]), list[msgspec.Raw]):
                yield _decoded(bytes(item), into)
            cursor = _decoded(bytes(page["next"]), str | None) or ""  # type: ignore[arg-type]
            if not cursor:
                return

    async def _send(
        self,
        method: str,
        where: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        patience_s: float | None = None,
    ) -> bytes:
        if self._http is None:
            raise RuntimeError("a client is used inside its `async with`")
        named = dict(headers or {})
        if self._target.token is not None:
            named["Authorization"] = f"Bearer {self._target.token}"
        url = self._target.url + where
        timeout = self._timeout
        if patience_s is not None:
            timeout = aiohttp.ClientTimeout(total=None, connect=timeout.connect, sock_read=patience_s)
        try:
            async with self._http.request(
                # A stream, so that a chunk of megabytes does not go out in one step.
                method,
                url,
                data=None if data is None else io.BytesIO(data),
                headers=named,
                params=dict(query or {}),
                allow_redirects=False,
                timeout=timeout,
            ) as answer:
                content = await answer.read()
        except aiohttp.InvalidURL as error:
            raise Refused("not a URL", field="--url", value=self._target.url, allowed="http://host:port") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            text = str(error) or type(error).__name__
            raise Transient(f"{self._target.url} is not reachable: {text}", why=Unavailable.UNREACHABLE) from error
        if not 200 <= answer.status < 300:
            raise _error(answer.status, content, answer.headers.get("Retry-After", "1"))
        return content


def _decoded(data: bytes, into: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=into)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(f"the answer is none of this API's: {error}") from error


def _error(status: int, content: bytes, retry_after: str) -> TidelineError:
    try:
        problem = msgspec.json.decode(content, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = Problem()
    text = problem.detail or f"the server answered {status}"
    if status == 429:
        return Overloaded(text, retry_after=float(retry_after) if retry_after.isdecimal() else 1.0)
    if status in KINDS and status < 500:
        return Refused(text, kind=KINDS[status], code=problem.code or None)
    if status in (401, 403):
        return Refused(text, kind=Refusal.FORBIDDEN, code=problem.code or None)
    if status in (502, 503, 504, 507):
        return Transient(text, why=Unavailable.NOT_READY)
    return Corrupt(text, code=problem.code or "failed")
