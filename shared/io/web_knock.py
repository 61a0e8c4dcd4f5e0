"""A whole request in one piece of what a client sent, read without a parser: enough to turn it away, which must cost next to nothing.

Only what is beyond doubt is read so: one POST, with one `Content-Length`, that ends just where the bytes do. Whatever else it may be, the
answer is None, and the parser sees it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_END = b"\r\n\r\n"
_HEAD = re.compile(rb"POST /[0-9A-Za-z/._~-]+ HTTP/1\.1(?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\r\n\0]*)+")
"""RFC 9112, section 3 and 5: a request line with a plain path, and fields without folding or blanks before the colon."""
_UNUSUAL = (b"\r\ntransfer-encoding:", b"\r\nexpect:", b"\r\nupgrade:", b"\r\ncontent-encoding:")
_LENGTH, _CONNECTION, _HOST = b"\r\ncontent-length:", b"\r\nconnection:", b"\r\nhost:"
_MOST_DIGITS = 8


class Knock(NamedTuple):
    """A request at the door: its path as sent, the bytes of its body, and those of the wanted header fields that it has."""

    path: str
    size: int
    fields: Mapping[str, str]


def knock_of(data: bytes, wanted: Sequence[str]) -> Knock | None:
    """The request that `data` is, with the fields named in `wanted` under these very names; None where that takes a parser."""
    end = data.find(_END)
    if end < 0:
        return None
    sent = data[:end]
    if _HEAD.fullmatch(sent) is None:
        return None
    head = sent.lower()
    at = head.find(_LENGTH)
    if at < 0 or head.find(_LENGTH, at + 1) >= 0 or any(field in head for field in _UNUSUAL) or head.count(_HOST) != 1:
        return None
    length = _value(head, at + len(_LENGTH))
    if not length.isdigit() or len(length) > _MOST_DIGITS or end + len(_END) + int(length) != len(data):
        return None
    at = head.find(_CONNECTION)
    if at >= 0 and _value(head, at + len(_CONNECTION)) != b"keep-alive":
        return None
    fields: dict[str, str] = {}
    for name in wanted:
        key = b"\r\n%b:" % name.lower().encode()
        at = head.find(key)
        if at >= 0:
            fields[name] = _value(sent, at + len(key)).decode("latin-1")
    return Knock(sent[5 : sent.index(b" ", 5)].decode("ascii"), int(length), fields)


def _value(head: bytes, at: int) -> bytes:
    stop = head.find(b"\r\n", at)
    return head[at : stop if stop >= 0 else len(head)].strip(b" \t")
