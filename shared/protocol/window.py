"""A time of day in which something may be done, such as `22:00-05:30`: UTC, past midnight where it ends before it begins. Pure."""

import re

from shared.protocol.errors import Refusal, Refused

DAY_S = 86400
ALLOWED = "HH:MM-HH:MM in UTC, with two different times"
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def parse_window(text: str, *, field: str) -> tuple[int, int]:
    """When a window begins and when it ends, in seconds since midnight.

    Raises:
        Refused: not a window; names `field`.

    """
    found = _WINDOW.fullmatch(text)
    if found is not None:
        hours = [int(part) for part in found.groups()]
        begin, end = (hours[0] * 60 + hours[1]) * 60, (hours[2] * 60 + hours[3]) * 60
        if begin != end:
            return begin, end
    raise Refused("not a window", kind=Refusal.UNPROCESSABLE, field=field, value=text, allowed=ALLOWED)


def opens_in(text: str, now: float) -> float:
    """Seconds until the window is open at `now` (Unix seconds); 0 while it is. One that cannot be read is always open."""
    try:
        begin, end = parse_window(text, field="window")
    except Refused:
        # A newer control plane's form: never to fetch would be worse than to fetch at the wrong hour.
        return 0.0
    since = (now - begin) % DAY_S
    return 0.0 if since < (end - begin) % DAY_S else DAY_S - since
