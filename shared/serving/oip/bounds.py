"""What a body of the Open Inference Protocol may not be, checked where it is cheap: too many parts, numbers that JSON has not."""

from collections.abc import Mapping

from shared.protocol.errors import Refusal, Refused
from shared.serving.answer import Array
from shared.serving.oip.tensors import is_finite

LOOK_FROM = 64 * 1024
"""Bytes of JSON that can become nothing large."""
MOST = 250_000
"""Lists and objects in one JSON part: two bytes each there, and up to a hundred once decoded."""


def check_parts(body: bytes, size: int) -> None:
    """Refuse a JSON part, the first `size` bytes of `body`, of more than `MOST` lists and objects.

    Brackets inside of texts count too: no text has as many.
    """
    if size <= LOOK_FROM:
        return
    count = body.count(b"[", 0, size) + body.count(b"{", 0, size)
    if count > MOST:
        raise Refused(
            "too many lists and objects", kind=Refusal.TOO_LARGE, field="body", value=count, allowed=f"at most {MOST}"
        )


def check_finite(arrays: Mapping[str, Array]) -> None:
    """Refuse to tell an output in JSON that holds infinity or no number at all."""
    for name, array in arrays.items():
        if not is_finite(array):
            raise Refused(
                "the output holds NaN or infinity, which JSON has no form for",
                kind=Refusal.UNPROCESSABLE,
                field=f"outputs.{name}",
                allowed="the output as binary_data",
            )
