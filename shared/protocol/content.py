"""Content over MQTT: what a device asks for on `chunks/get` and `trust/get`, and the parts it is sent on `chunks/…` and `trust/…`.

A request is a list of the parts the device still lacks, in an envelope. An answer is one part: a line of JSON (`Head`), then the
bytes as they are. A request may be repeated and an answer may be lost or come twice: each part stands for itself. Manifests are
asked for by their digest, as chunks are. Chunks come in the form they are kept in (`shared.bundle.packing`).
"""

import hashlib
from typing import NamedTuple

import msgspec

from shared.protocol import names
from shared.protocol.envelope import decoded
from shared.protocol.errors import Corrupt, Refusal, Refused

KINDS = {"chunks-get": "chunks", "trust-get": "trust"}
"""The row (and the envelope's kind) of a request, and the row of its answers."""
MOST_PARTS = 64
MOST_BYTES = 1 << 20
"""Of one part; the broker's own limit may be lower, which is why the device says how much it takes."""
MOST_HEAD = 4096
OK = 200


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Bytes `begin` to `end` (not included) of a chunk, a manifest or a metadata file."""

    name: str
    begin: int
    end: int


class Get(msgspec.Struct, frozen=True, kw_only=True):
    """What a device lacks, in the order it wants it."""

    parts: tuple[Part, ...]


class Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an answer says of its bytes.

    `size` is that of the whole and `tag` tells it from another of the same name; `sum` is the beginning of the SHA-256 of the
    bytes. A `status` other than 200 means what HTTP means by it, and there are no bytes then.
    """

    begin: int
    size: int = 0
    tag: str = ""
    sum: str = ""
    status: int = OK
    detail: str = ""


class Sent(NamedTuple):
    """An answer, opened."""

    head: Head
    data: bytes


def check(get: Get, row: str) -> None:
    """Refuse what no device of ours asks for.

    Raises:
        Refused: names the field.

    """
    if not 1 <= len(get.parts) <= MOST_PARTS:
        raise Refused("out of range", field="body.parts", value=len(get.parts), allowed=f"1 to {MOST_PARTS} parts")
    for i, part in enumerate(get.parts):
        names.checked("digest" if KINDS[row] == "chunks" else "file", part.name, field=f"body.parts[{i}].name")
        if not 0 <= part.begin < part.end <= part.begin + MOST_BYTES:
            value, allowed = (part.begin, part.end), f"a begin from 0 on, and an end at most {MOST_BYTES} B behind it"
            raise Refused("not a part", field=f"body.parts[{i}]", value=value, allowed=allowed)


def sealed(data: bytes, *, begin: int, size: int, tag: str) -> bytes:
    """The answer with bytes."""
    head = Head(begin=begin, size=size, tag=tag, sum=_sum(data))
    return b"\n".join((msgspec.json.encode(head), data))


def refused(status: int, detail: str, *, begin: int) -> bytes:
    """The answer without."""
    return msgspec.json.encode(Head(begin=begin, status=status, detail=detail[:500])) + b"\n"


def opened(payload: bytes) -> Sent:
    """An answer's head and bytes.

    Raises:
        Refused: no such head.
        Corrupt: the bytes are not those that were sent.

    """
    end = payload.find(b"\n", 0, MOST_HEAD)
    if end < 0:
        raise Refused("no line of JSON", kind=Refusal.MALFORMED, field="$", allowed=f"one within {MOST_HEAD} B")
    head, data = decoded(payload[:end], Head), payload[end + 1 :]
    if head.status == OK and _sum(data) != head.sum:
        raise Corrupt(f"{len(data)} B from {head.begin} on came damaged", code="part-damaged")
    return Sent(head, data)


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
