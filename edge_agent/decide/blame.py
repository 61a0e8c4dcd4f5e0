"""What a failure speaks against, and how many are too many."""

from collections.abc import Mapping

import msgspec

from shared.protocol.desired import Order

FETCHES = 5
"""More than `FAILURES`: a proxy on the way may be what is wrong."""
FAILURES = 2
CRASHES = 3
FETCH_CRASHES = 20
"""More than `CRASHES`: a fetch takes long, runs nobody's program, and goes on where it was."""
COLLECTING = "collecting"
"""Removing what nothing refers to: where even that fails, it stays."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """How often something failed, how often the agent died of it, and the last error."""

    failed: int
    crashed: int
    error: str


def subject(digest: str, variant: str | None = None) -> str:
    """What a failure speaks against: getting a version at all, or running one variant of it."""
    return digest if variant is None else f"{digest}-{variant}"


def assembly(digest: str, variant: str) -> str:
    """What a failure to install speaks against: the bytes that came, not what they do."""
    return f"{digest}/{variant}"


def removal(name: str, version: str) -> str:
    """What a failure to unload speaks against."""
    return f"{name}/{version}"


def trial(order: Order) -> str:
    """What is recorded of a generation as a whole: its swap, its probation, and that it was rolled back."""
    return f"{order.epoch}.{order.number}"


def hopeless(
    about: str, failures: Mapping[str, Failure], *, most: int = FAILURES, crashes: int = CRASHES
) -> str | None:
    """The last error of what failed too often to be tried again; None while there is hope."""
    failure = failures.get(about)
    if failure is not None and (failure.failed >= most or failure.crashed >= crashes):
        return failure.error
    return None
