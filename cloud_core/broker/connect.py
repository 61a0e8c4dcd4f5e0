"""The CONNECT packet (MQTT 3.1.1, section 3.1), read strictly and before anything else is believed."""

import struct
from typing import NamedTuple

from shared.protocol.errors import Refusal, Refused

MAX_BYTES = 256 * 1024
CONNECT = 0x10
LEVEL = 4
_CLEAN, _WILL, _WILL_RETAIN, _PASSWORD, _USERNAME = 0x02, 0x04, 0x20, 0x40, 0x80


class Connect(NamedTuple):
    """What a client says of itself. `keepalive` in seconds, 0 for none."""

    client_id: str
    keepalive: int
    username: str | None
    password: str | None
    will_topic: str | None
    will_payload: bytes
    will_qos: int
    will_retain: bool


def parse(body: bytes) -> Connect:
    """The packet behind its fixed header.

    Raises:
        Refused: malformed (kind MALFORMED), or another protocol level than 3.1.1's (kind UNSUPPORTED).

    """
    reader = _Reader(body)
    protocol, level = reader.text("protocol"), reader.byte()
    if protocol != "MQTT" or level != LEVEL:
        raise Refused("unknown protocol", kind=Refusal.UNSUPPORTED, field="level", value=(protocol, level), allowed="4")
    flags = reader.byte()
    will_qos = flags >> 3 & 3
    if flags & 1 or will_qos == 3 or (not flags & _WILL and flags & (_WILL_RETAIN | 0x18)):
        raise Refused("reserved flags are set", field="flags", value=flags)
    if flags & _PASSWORD and not flags & _USERNAME:
        raise Refused("a password without a username", field="flags", value=flags)
    keepalive = reader.number()
    client_id = reader.text("client_id")
    has_will = bool(flags & _WILL)
    will_topic, will_payload = (reader.text("will_topic"), reader.data()) if has_will else (None, b"")
    username = reader.text("username") if flags & _USERNAME else None
    password = reader.text("password") if flags & _PASSWORD else None
    if reader.left:
        raise Refused("bytes behind the end", field="length", value=reader.left)
    return Connect(
        client_id, keepalive, username, password, will_topic, will_payload, will_qos, bool(flags & _WILL_RETAIN)
    )


def encode(connect: Connect) -> bytes:
    """A whole packet for the broker behind: clean session, no keepalive (it is watched here), and no password."""
    flags = _CLEAN
    parts = [_text(connect.client_id)]
    if connect.will_topic is not None:
        flags |= _WILL | connect.will_qos << 3 | (_WILL_RETAIN if connect.will_retain else 0)
        parts += [_text(connect.will_topic), struct.pack("!H", len(connect.will_payload)) + connect.will_payload]
    if connect.username is not None:
        flags |= _USERNAME
        parts.append(_text(connect.username))
    body = _text("MQTT") + struct.pack("!BBH", LEVEL, flags, 0) + b"".join(parts)
    return bytes([CONNECT]) + length_of(len(body)) + body


def length_of(number: int) -> bytes:
    """The variable length encoding of section 2.2.3."""
    out = bytearray()
    while True:
        number, low = divmod(number, 128)
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def connack(code: int) -> bytes:
    """The answer; no session is ever present."""
    return bytes([0x20, 2, 0, code])


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("!H", len(data)) + data


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def byte(self) -> int:
        return self._take(1)[0]

    def number(self) -> int:
        return int.from_bytes(self._take(2), "big")

    def data(self) -> bytes:
        return self._take(self.number())

    def text(self, field: str) -> str:
        try:
            text = self.data().decode()
        except UnicodeDecodeError as error:
            raise Refused("not UTF-8", field=field) from error
        if "\0" in text:
            raise Refused("NUL in a text", field=field)
        return text

    def _take(self, count: int) -> bytes:
        if count > self.left:
            raise Refused("the packet ends too early", field="length", value=len(self._data))
        self._at += count
        return self._data[self._at - count : self._at]
