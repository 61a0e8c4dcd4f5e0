"""How much overflow may be under way to the cloud at once: additive increase, multiplicative decrease.  Pure.

An estimate is learnt from answers, and answers come after a burst was sent: without this bound a device that saturates sends
everything at once to a cloud that takes it one by one, and all of it is late.

Where a thousand devices saturate together, each with a window of a few, nobody's window is at fault and the cloud is still asked
thousands of times more than it can take. So the window begins at one, and what an answer took tells whether the cloud was
busy: below `EASY` it grows by one for each answer (it doubles in a round trip, TCP's slow start), up to `BUSY` by one for each window of
answers, beyond that not at all, and beyond `SLOW` it falls (delay as the sign of congestion; Brakmo and Peterson 1995). After a fall it
grows fast up to what the fall left, and slowly from there.
"""

import msgspec

FIRST = 1.0
LEAST = 1.0
MOST = 256.0
DECREASE = 0.7
AGAIN = 0.9
EASY = (1.2, 0.02)
"""An answer is easily given within this many times the least that one took, and so many seconds more."""
BUSY = (1.4, 0.03)
SLOW = (3.0, 0.1)
DRIFT = 1.01
"""The least rises by this with each answer, so that a longer way to the cloud is believed in the end."""


class Window(msgspec.Struct, frozen=True):
    """`limit` requests may be under way; `narrowed_at` is when it last fell (monotonic), below `quick` it may grow fast.

    `least` is about the least that an answer has taken of late, in seconds.
    """

    limit: float = FIRST
    narrowed_at: float = float("-inf")
    quick: float = MOST
    least: float = float("inf")


def has_room(window: Window, outstanding: int) -> bool:
    """Whether one more may go."""
    return outstanding < window.limit


def answered(window: Window, *, outstanding: int, seconds: float, now: float) -> Window:
    """After an answer in time that took `seconds`, with `outstanding` under way, itself among them: wider, if it was in use."""
    least = min(seconds, window.least * DRIFT)
    if seconds > _within(SLOW, least):
        return narrowed(msgspec.structs.replace(window, least=least), sent_at=now - seconds, now=now)
    limit = window.limit
    if outstanding * 2 > limit and seconds <= _within(BUSY, least):
        fast = limit < window.quick and seconds <= _within(EASY, least)
        limit = min(MOST, limit + (1.0 if fast else 1.0 / limit))
    return Window(limit, window.narrowed_at, window.quick, least)


def narrowed(window: Window, *, sent_at: float, now: float) -> Window:
    """After a late or refused request; what was sent before the last fall belongs to the same congestion and counts once."""
    if sent_at <= window.narrowed_at:
        return window
    limit = max(LEAST, window.limit * DECREASE)
    # Falls in a row are one story, such as a cloud that was away: it grows fast again up to what the first of them left.
    recovering = window.limit <= window.quick < MOST
    return Window(limit, now, window.quick * AGAIN if recovering else limit, window.least)


def _within(bound: tuple[float, float], least: float) -> float:
    times, more = bound
    return times * least + more
