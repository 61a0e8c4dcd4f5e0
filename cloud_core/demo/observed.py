"""What a step observed, in words; and the step's end where it was not what should be."""

import os

from cloud_core.demo.fleet import Device, applied
from cloud_core.demo.load import Outcome
from shared.protocol.errors import Transient, Unavailable


def order(device: Device) -> str:
    """The generation a device answers with."""
    found = applied(device)
    return f"{found[0]}.{found[1]}" if found else "none"


def counts(outcome: Outcome) -> str:
    """Who answered, who was refused, and how long it took."""
    refused = "".join(f", {count} refused with {status}" for status, count in sorted(outcome.refused.items()))
    broken = f", {outcome.broken} broken off" if outcome.broken else ""
    where = ", ".join(f"{count} by {where}" for where, count in sorted(outcome.where.items()))
    return f"{where or 'none answered'}{refused}{broken}, p99 {outcome.quantile(0.99) * 1000:.0f} ms"


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def expect(holds: bool, otherwise: str) -> None:
    """End the step, saying `otherwise`, unless it holds."""
    if not holds:
        raise failure(otherwise)


def failure(why: str) -> Transient:
    """A step that did not hold."""
    return Transient(why, why=Unavailable.NOT_READY)
