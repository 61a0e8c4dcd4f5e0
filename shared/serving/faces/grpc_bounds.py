"""How many parts a message has, counted on the wire before anything is allocated for them.

An empty tensor is two bytes there and dozens once parsed: a body within its limit could become a gigabyte. What is counted are
the fields of the message and, one level down, those of its tensors and parameters; the elements of a tensor are bounded by
the body, a few times over.
"""

from shared.protocol.errors import Refusal, Refused

MOST = 10_000
_INNER = frozenset({4, 5, 6})
"""Parameters, inputs and outputs of an inference request."""


def check_parts(data: bytes) -> None:
    """Refuse a message of more than `MOST` parts; bytes that are no message are left to its parser."""
    count = 0
    waiting = [(0, len(data), True)]
    while waiting:
        place, end, whole = waiting.pop()
        while place < end:
            key, place = _varint(data, place, end)
            match key & 7:
                case 0:
                    _, after = _varint(data, place, end)
                case 1:
                    after = place + 8
                case 2:
                    size, place = _varint(data, place, end)
                    after = place + size
                    if whole and key >> 3 in _INNER and after <= end:
                        waiting.append((place, after, False))
                case 5:
                    after = place + 4
                case _:
                    after = place
            place = after
            count += 1
            if count > MOST:
                raise Refused(
                    "too many parts", kind=Refusal.TOO_LARGE, field="message", value=f"over {MOST}", allowed=f"{MOST}"
                )


def _varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    """The number at `place`, and the place after it; whatever ends too early ends the message."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            break
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    return 0, end
