"""The device API over HTTP: ranges, and a bearer token that goes to the configured address only: redirects are not followed."""

from typing import Protocol

import aiohttp

from edge_agent.control.fetch import Keep
from shared.bundle.packing import ENCODING
from shared.protocol.errors import Corrupt, Refusal, Refused, Transient, Unavailable
from shared.protocol.topics import Path as Paths

CHUNKS = Paths.CHUNK.partition("{")[0]
PIECE = 64 * 1024
CONNECT_S = 10.0
SILENCE_S = 30.0
"""Longest wait for the next bytes of one transfer."""


class Tokens(Protocol):
    """Where bearer tokens come from."""

    async def token(self) -> str:
        """One that should be good."""
        ...

    def forget(self, token: str) -> None:
        """It was refused: do not give it out again."""
        ...


class HttpSource:
    """Asks one device API; see `edge_agent.control.fetch.Source`."""

    grain = 0

    def __init__(self, http: aiohttp.ClientSession, *, api_url: str, tokens: Tokens) -> None:
        self._http = http
        self._url = api_url.rstrip("/")
        self._tokens = tokens

    async def get(self, path: str, keep: Keep, *, limit: int, begin: int = 0) -> None:
        """As `Source` says."""
        url = self._url + path
        token = await self._tokens.token()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        # Chunks may come packed, which their bytes say themselves; nothing is unpacked here.
        encodings = f"{ENCODING}, identity" if path.startswith(CHUNKS) else "identity"
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": encodings}
        if begin:
            headers["Range"] = f"bytes={begin}-"
        try:
            async with self._http.get(
                url, headers=headers, timeout=timeout, allow_redirects=False, auto_decompress=False
            ) as answer:
                if begin and answer.status == 416:
                    return  # there is no more of it
                received = self._begins(answer, url, token, begin)
                async for piece in answer.content.iter_chunked(PIECE):
                    known = max(0, begin - received)
                    received += len(piece)
                    if received > limit:
                        raise Corrupt(f"{url} sends more than its {limit} B", code="too-long")
                    if known < len(piece):
                        await keep(piece[known:])
        except (aiohttp.ClientError, TimeoutError, ConnectionError, ValueError) as error:
            raise Transient(f"{url}: {error or type(error).__name__}", why=Unavailable.UNREACHABLE) from error

    def _begins(self, answer: aiohttp.ClientResponse, url: str, token: str, begin: int) -> int:
        """At which byte the answer begins; a server that knows no ranges, or has other bytes by now, begins anew."""
        if answer.status == 200:
            return 0
        if answer.status == 206 and begin and answer.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
            return begin
        raise self._refusal(answer, url, token)

    def _refusal(self, answer: aiohttp.ClientResponse, url: str, token: str) -> Refused | Transient:
        status = answer.status
        if status == 401:
            # An expired token, or a control plane with new keys: the next attempt brings another.
            self._tokens.forget(token)
        # A redirect is what captive portals send: it passes.
        if status in (401, 408, 425, 429) or status >= 500 or 300 <= status < 400:
            return Transient(f"{url} answered {status}", why=Unavailable.UNREACHABLE, retry_after=_retry_after(answer))
        kind = {403: Refusal.FORBIDDEN, 404: Refusal.NOT_FOUND}.get(status, Refusal.UNSUPPORTED)
        return Refused(f"{url} answered {status}", kind=kind)


def _retry_after(answer: aiohttp.ClientResponse) -> float | None:
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None
