"""What may be acknowledged: the last sample up to which nothing is owed any more. Pure.

A device sends the oldest samples it holds, in order, and no others before they are acknowledged. So what is older than a batch, or
missing inside it, was acknowledged before or dropped by the device, which counts it: it cannot come any more.
"""

import msgspec


class Advance(msgspec.Struct, frozen=True):
    """`seq` may be acknowledged. `skipped`: how many samples lie between what was acknowledged and the batch."""

    seq: int
    skipped: int


def advance(seq: int | None, *, first: int, last: int) -> Advance:
    """The watermark after a batch was stored.

    Args:
        seq: what was acknowledged of this epoch; None for nothing yet.
        first: the batch's first sample.
        last: the batch's last sample.

    """
    if seq is None:
        return Advance(last, 0)
    return Advance(max(seq, last), max(0, first - seq - 1))
