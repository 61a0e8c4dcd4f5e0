"""Reading the protobuf wire format (protobuf.dev/programming-guides/encoding) without a schema, copying nothing.

Of a field that stands several times every occurrence is given: a reader that refuses what it sees in any of them judges whatever a
real parser makes of them together.
"""

from collections.abc import Iterator
from typing import NamedTuple

Value = int | memoryview


class Field(NamedTuple):
    """One field: its number, its value, and all of its bytes, tag and length included."""

    number: int
    value: Value
    whole: memoryview


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTH = {_FIXED64: 8, _FIXED32: 4}
_LONGEST = 10
"""Bytes of a varint."""


class NotProtobufError(ValueError):
    """The bytes are no protobuf message."""


def fields(message: memoryview) -> Iterator[Field]:
    """Every field: varints as unsigned 64-bit numbers, the rest as their bytes.

    Raises:
        NotProtobufError: cut short, a group, or a tag no message has.

    """
    at, end = 0, len(message)
    while at < end:
        start = at
        tag, at = _varint(message, at, end)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise NotProtobufError(f"no field has number 0 (at byte {at})")
        if kind == _VARINT:
            value, at = _varint(message, at, end)
            yield Field(number, value, message[start:at])
            continue
        if kind == _BYTES:
            length, at = _varint(message, at, end)
        elif kind in _WIDTH:
            length = _WIDTH[kind]
        else:
            raise NotProtobufError(f"wire type {kind} (at byte {at})")
        if length > end - at:
            raise NotProtobufError(f"cut short: {length} bytes wanted at byte {at}, {end - at} are there")
        yield Field(number, message[at : at + length], message[start : at + length])
        at += length


def message_field(number: int, content: bytes) -> bytes:
    """A field that is a message, written."""
    return _written(number << 3 | _BYTES) + _written(len(content)) + content


def integers(value: Value) -> Iterator[int]:
    """A repeated int64 field's numbers, packed or one by one."""
    if isinstance(value, int):
        yield _signed(value)
        return
    at, end = 0, len(value)
    while at < end:
        number, at = _varint(value, at, end)
        yield _signed(number)


def text(value: Value) -> str:
    """A string field; bytes that are no UTF-8 are shown as such."""
    return str(value) if isinstance(value, int) else bytes(value).decode(errors="backslashreplace")


def within(value: Value) -> memoryview:
    """A field that is a message.

    Raises:
        NotProtobufError: it is a number.

    """
    if isinstance(value, int):
        raise NotProtobufError("a number where a message belongs")
    return value


def _varint(message: memoryview, at: int, end: int) -> tuple[int, int]:
    if at < end and (first := message[at]) < 0x80:
        return first, at + 1
    value = shift = 0
    for place in range(at, min(end, at + _LONGEST)):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place + 1
        shift += 7
    raise NotProtobufError(f"a number without end at byte {at}")


def _written(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
