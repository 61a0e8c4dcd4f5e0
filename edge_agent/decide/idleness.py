"""May the device be measured now? Never beside live traffic, nor while something else uses its processor."""

from enum import StrEnum

import msgspec

LOOK_AGAIN_S = 30.0


class Because(StrEnum):
    """Why not now."""

    REQUESTS = "requests"
    CONVERGING = "converging"
    BUSY = "busy-processor"
    ANOTHER_RUN = "another-run"


class Quiet(msgspec.Struct, frozen=True, kw_only=True):
    """How quiet it is. `quiet_s`: seconds since the last request ended; 0 while one runs. `used`: share of the processor."""

    quiet_s: float
    used: float
    converging: bool = False


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Not now: look again in `seconds`."""

    reason: Because
    seconds: float


def may_measure(quiet: Quiet, *, after_s: float, most: float) -> Wait | None:
    """None where it may be measured now; else why not, and when to look again.

    Args:
        quiet: how quiet it is.
        after_s: how long nobody must have asked anything.
        most: the share of the processor anybody may use: what they do would be measured too.

    """
    if quiet.quiet_s < after_s:
        return Wait(reason=Because.REQUESTS, seconds=after_s - quiet.quiet_s)
    if quiet.converging:
        return Wait(reason=Because.CONVERGING, seconds=LOOK_AGAIN_S)
    if quiet.used > most:
        return Wait(reason=Because.BUSY, seconds=LOOK_AGAIN_S)
    return None
