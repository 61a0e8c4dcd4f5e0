"""How much overflow may be under way to the cloud at once: additive increase, multiplicative decrease.  Pure.

An estimate is learnt from answers, and answers come after a burst was sent: without this bound a device that saturates sends
everything at once to a cloud that takes it one by one, and all of it is late.
"""

import msgspec

FIRST = 4.0
LEAST = 1.0
MOST = 256.0
DECREASE = 0.7


class Window(msgspec.Struct, frozen=True):
    """`limit` requests may be under way; `narrowed_at` is when it last fell (monotonic)."""

    limit: float = FIRST
    narrowed_at: float = float("-inf")


def has_room(window: Window, outstanding: int) -> bool:
    """Whether one more may go."""
    return outstanding < window.limit


def widened(window: Window, *, outstanding: int) -> Window:
    """After an answer in time: by one for each whole window of answers, if the window was used."""
    if outstanding * 2 < window.limit:
        return window
    return Window(min(MOST, window.limit + 1.0 / window.limit), window.narrowed_at)


def narrowed(window: Window, *, sent_at: float, now: float) -> Window:
    """After a late or refused request; what was sent before the last fall belongs to the same congestion and counts once."""
    if sent_at <= window.narrowed_at:
        return window
    return Window(max(LEAST, window.limit * DECREASE), now)
