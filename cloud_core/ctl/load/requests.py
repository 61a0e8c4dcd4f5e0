"""The requests of a load: bytes made once, sent many times; only the deadline of one that waited is written anew."""

from collections.abc import Mapping, Sequence

from shared.protocol.topics import Header

_LATE_S = 0.002
"""Waiting shorter than this is not taken off a deadline: it is the open loop's own step."""


class Requests:
    """Whole HTTP/1.1 POST requests over `bodies`, in turn."""

    def __init__(
        self, path: str, bodies: Sequence[bytes], *, headers: Mapping[str, str], deadline_s: float | None
    ) -> None:
        """`deadline_s`: what each request may take from when it is due; what is left of it when it is sent goes with it."""
        lines = {"Content-Type": "application/json", **headers}
        self._head = "".join([f"POST {path} HTTP/1.1\r\n", *(f"{k}: {v}\r\n" for k, v in lines.items())]).encode()
        self._tails = [b"Content-Length: %d\r\n\r\n%b" % (len(body), body) for body in bodies]
        self._deadline = deadline_s
        self._whole = [self._made(tail, 0.0) for tail in self._tails]
        self._turn = -1

    def next(self, waited: float = 0.0) -> bytes:
        """The next request, which has been due for `waited` seconds."""
        self._turn = turn = (self._turn + 1) % len(self._whole)
        if self._deadline is None or waited < _LATE_S:
            return self._whole[turn]
        return self._made(self._tails[turn], waited)

    def _made(self, tail: bytes, waited: float) -> bytes:
        if self._deadline is None:
            return self._head + tail
        left = max(1.0, 1000 * (self._deadline - waited))
        return b"%b%b: %d\r\n%b" % (self._head, Header.DEADLINE_MS.encode(), left, tail)
