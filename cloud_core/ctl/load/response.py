"""HTTP/1.1 responses out of a stream of bytes (RFC 9112), as far as a load needs them: status, a few headers, the body.

One request is in flight on a connection, so one response comes; what comes after it is an error. No I/O happens here.
"""

from typing import NamedTuple

_LONGEST_HEAD = 65536


class NoResponse(Exception):
    """The bytes are no HTTP/1.1 response."""


class Response(NamedTuple):
    """`head` is in lower case, with its first line; `close`: the connection ends here."""

    status: int
    head: bytes
    body: bytes
    close: bool

    @property
    def retry_after(self) -> float | None:
        """Seconds, where the response says them; a date is not read."""
        text = header(self.head, b"retry-after")
        return float(text) if text is not None and text.isdigit() and len(text) < 9 else None


def header(head: bytes, name: bytes) -> bytes | None:
    """The first header of that name, in lower case; None where there is none."""
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        return None
    start = at + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


class ResponseReader:
    """Reads one response after the other: `feed` the bytes, and `end` where the peer closed."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Response | None:
        """The response once it is whole.

        Raises:
            NoResponse: the bytes are none, or something follows it.

        """
        self._data = data = self._data + data if self._data else data
        while True:
            at = data.find(b"\r\n\r\n")
            if at < 0:
                if len(data) > _LONGEST_HEAD or not b"HTTP/1.".startswith(data[:7]):
                    raise NoResponse("no head")
                return None
            head = data[:at].lower()
            status = _status(head)
            if status >= 200:
                break
            # 1xx: an interim response; the one that counts follows.
            self._data = data = data[at + 4 :]
        response, used = _framed(data, at + 4, head, status)
        if response is None:
            return None
        if len(data) > used:
            raise NoResponse("bytes after the response")
        self._data = b""
        return response

    def end(self) -> Response | None:
        """The peer closed: the response that this ends, if it is one that has no other end."""
        data, self._data = self._data, b""
        at = data.find(b"\r\n\r\n")
        if at < 0:
            return None
        head = data[:at].lower()
        if header(head, b"content-length") is not None or header(head, b"transfer-encoding") is not None:
            return None
        return Response(_status(head), head, data[at + 4 :], True)


def _status(head: bytes) -> int:
    code = head[9:12]
    if not head.startswith(b"http/1.") or not code.isdigit() or head[8:9] != b" ":
        raise NoResponse("no status line")
    return int(code)


def _framed(data: bytes, start: int, head: bytes, status: int) -> tuple[Response | None, int]:
    """The response and where it ends in `data`; None while it is not whole (section 6.3 says in which order lengths count)."""
    close = header(head, b"connection") == b"close" or head.startswith(b"http/1.0")
    if status in (204, 304):
        return Response(status, head, b"", close), start
    coding = header(head, b"transfer-encoding")
    if coding is not None:
        if coding != b"chunked":
            raise NoResponse("an unknown transfer coding")
        chunked = _chunks(data, start)
        return (None, 0) if chunked is None else (Response(status, head, chunked[0], close), chunked[1])
    length = header(head, b"content-length")
    if length is None:
        return None, 0
    if not length.isdigit() or len(length) > 15:
        raise NoResponse("no length")
    end = start + int(length)
    return (None, 0) if len(data) < end else (Response(status, head, data[start:end], close), end)


def _chunks(data: bytes, at: int) -> tuple[bytes, int] | None:
    """The body in chunks (section 7.1), extensions and trailers skipped; None while it is not whole."""
    parts: list[bytes] = []
    while True:
        line = data.find(b"\r\n", at)
        if line < 0:
            return None
        try:
            size = int(data[at:line].partition(b";")[0], 16)
        except ValueError as error:
            raise NoResponse("no chunk size") from error
        if size < 0:
            raise NoResponse("no chunk size")
        at = line + 2
        if size == 0:
            if data[at : at + 2] == b"\r\n":
                return b"".join(parts), at + 2
            end = data.find(b"\r\n\r\n", at)
            return None if end < 0 else (b"".join(parts), end + 4)
        if len(data) < at + size + 2:
            return None
        parts.append(data[at : at + size])
        if data[at + size : at + size + 2] != b"\r\n":
            raise NoResponse("no end of chunk")
        at += size + 2
