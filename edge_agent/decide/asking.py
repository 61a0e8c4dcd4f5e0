"""How many parts of content a device asks for ahead over MQTT, and when one counts as lost. Pure.

Nobody tells how fast the way is, and a part comes whole or not at all: so the window grows with every part that comes and is
halved when one does not, and patience follows the time parts took, as TCP's does (RFC 6298; parts that were asked for twice say
nothing of the time, as P. Karn and C. Partridge found in "Improving Round-Trip Time Estimates in Reliable Transport Protocols", 1987).
"""

import msgspec

FIRST_S, LEAST_S, MOST_S = 10.0, 2.0, 120.0
"""Patience with a part before any has come, at the least, and at the most."""
WINDOW = 16
"""Parts asked for ahead at the most."""
PASSED = 3
"""A part is lost once so many came that were asked for after it."""


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the way: parts in the window, seconds a part takes (None: not known), seconds of patience with one."""

    window: float = 2.0
    took: float | None = None
    patience: float = FIRST_S


def arrived(flow: Flow, *, took: float | None) -> Flow:
    """After a part came, `took` seconds after it was asked for; None where it was asked for twice."""
    window = min(float(WINDOW), flow.window + 1.0)
    if took is None:
        return Flow(window=window, took=flow.took, patience=flow.patience)
    mean = took if flow.took is None else 0.875 * flow.took + 0.125 * took
    return Flow(window=window, took=mean, patience=min(MOST_S, max(LEAST_S, 4.0 * max(mean, took))))


def lost(flow: Flow, *, in_time: bool) -> Flow:
    """After a part was lost; `in_time`: others came, so the way is there and only the window was too wide."""
    patience = flow.patience if in_time else min(MOST_S, 2.0 * flow.patience)
    return Flow(window=max(1.0, flow.window / 2.0), took=flow.took, patience=patience)
