"""What answering a request on the device costs those that come after it.  Pure.

Whoever is taken in keeps the device busy for longer, and everybody who comes before it is idle again waits that much more. For one server
in order of arrival, with `rate` requests a second that keep it busy a share `busy` of the time, work of `x` seconds behind `w` seconds of
waiting adds rate / (1 - busy) * (w * x + x * x / 2) seconds to the waits of all who follow: the value function of M/G/1 (Hyytiä, Penttinen
and Aalto, 2012), whose first term says how long the busy time still lasts and how many come in it. Added to a request's own time, it
sends long texts away first and short ones last, and lets the device be idle before somebody needs it.

`busy` is the share of requests that find the device busy: seen, not worked out from predictions, it is right where batches are
computed (arrivals see what time sees; Wolff 1982).
"""

import math

import msgspec

SPAN_S = 1.0
"""A request counts for about so long."""
WEIGHT = 0.03
BUSY_MOST = 0.8
"""Beyond it, what the formula adds is those who would go elsewhere or be refused."""


class Traffic(msgspec.Struct, frozen=True):
    """What came of late: `rate` requests a second taken in by the device, as of `at` (monotonic); `busy` the share that found it busy."""

    rate: float = 0.0
    busy: float = 0.0
    at: float = 0.0


def arrived(traffic: Traffic, *, here: bool, busy: bool, now: float) -> Traffic:
    """After a request that found the device `busy` or not; `here`: it is answered on the device."""
    rate = _faded(traffic, now) + (1.0 / SPAN_S if here else 0.0)
    return Traffic(rate, traffic.busy + WEIGHT * (busy - traffic.busy), now)


def followers(traffic: Traffic, *, now: float) -> float:
    """Requests a second that come while the device is busy with what it has, and those that come because they made it busy for longer."""
    return _faded(traffic, now) / (1.0 - min(BUSY_MOST, traffic.busy))


def displaced(followers: float, *, wait: float, work: float) -> float:
    """Seconds that all who follow wait longer for `work` seconds behind `wait` seconds."""
    return followers * (wait * work + work * work / 2)


def _faded(traffic: Traffic, now: float) -> float:
    return traffic.rate * math.exp(-max(0.0, now - traffic.at) / SPAN_S)
