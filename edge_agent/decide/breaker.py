"""The breaker for the one cloud target, and the retry budget.  Pure: values in, values out.

Rule: everything that changes the state stands in `TRANSITIONS`. Closed, requests pass; `FAILURES` in a row open it; open, nothing
passes until `open_for` seconds are over, longer each time it opens again, but a request that would be refused, which after `DOUBT_S` may
be the probe (`doubted`): it has nothing to lose. Half-open, one probe decides.
Unlike an outlier detector it needs no second host to compare with.
"""

from enum import StrEnum

import msgspec

FAILURES = 5
OPEN_FIRST_S = 1.0
DOUBT_S = 0.25
OPEN_GROWTH = 2.0
OPEN_MOST_S = 30.0
RETRY_SHARE = 0.1
"""Second attempts may be this share of requests."""
RETRY_BURST = 10.0


class State(StrEnum):
    """What the breaker lets through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Event(StrEnum):
    """What can happen to it."""

    SUCCESS = "success"
    FAILURE = "failure"
    TRIP = "trip"
    PROBE = "probe"
    ABANDON = "abandon"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.CLOSED: {
        Event.SUCCESS: State.CLOSED,
        Event.FAILURE: State.CLOSED,
        Event.TRIP: State.OPEN,
        Event.ABANDON: State.CLOSED,
    },
    State.OPEN: {
        # Late word from requests sent before it opened changes nothing: the probe decides.
        Event.SUCCESS: State.OPEN,
        Event.FAILURE: State.OPEN,
        Event.TRIP: State.OPEN,
        Event.ABANDON: State.OPEN,
        Event.PROBE: State.HALF_OPEN,
    },
    State.HALF_OPEN: {
        Event.SUCCESS: State.CLOSED,
        Event.FAILURE: State.OPEN,
        Event.TRIP: State.OPEN,
        # A probe that was cancelled told nothing: the next request may probe at once.
        Event.ABANDON: State.OPEN,
    },
}


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """Its whole state. `until` is when an open breaker may be probed (monotonic), `opened` how often in a row it opened.

    `doubted_at`: when it may be probed by what would be refused.
    """

    state: State = State.CLOSED
    failures: int = 0
    opened: int = 0
    until: float = 0.0
    doubted_at: float = 0.0


def permits(breaker: Breaker, *, now: float) -> bool:
    """May a request pass now? In the half-open state the one probe is already under way."""
    match breaker.state:
        case State.CLOSED:
            return True
        case State.OPEN:
            return now >= breaker.until
        case State.HALF_OPEN:
            return False


def doubted(breaker: Breaker, *, now: float) -> bool:
    """May a request pass that would otherwise be refused?"""
    return breaker.state is State.OPEN and now >= breaker.doubted_at


def retry_in(breaker: Breaker, *, now: float) -> float:
    """Seconds until a request may pass, as far as is known."""
    return max(0.0, breaker.until - now) if breaker.state is State.OPEN else 0.0


def passed(breaker: Breaker) -> Breaker:
    """After a permitted request is sent: an open breaker's becomes the probe."""
    if breaker.state is State.OPEN:
        return msgspec.structs.replace(breaker, state=TRANSITIONS[State.OPEN][Event.PROBE])
    return breaker


def succeeded(breaker: Breaker) -> Breaker:
    """After an answer, a refusal of the request included: the cloud is there."""
    state = TRANSITIONS[breaker.state][Event.SUCCESS]
    return Breaker() if state is State.CLOSED else msgspec.structs.replace(breaker, state=state)


def failed(breaker: Breaker, *, now: float, u: float) -> Breaker:
    """After a request that found no working cloud; `u` in [0, 1) spreads the probes of a fleet by a fifth either way."""
    failures = breaker.failures + 1
    trips = breaker.state is not State.OPEN and (breaker.state is State.HALF_OPEN or failures >= FAILURES)
    state = TRANSITIONS[breaker.state][Event.TRIP if trips else Event.FAILURE]
    if not trips:
        return msgspec.structs.replace(breaker, state=state, failures=failures)
    open_for = min(OPEN_MOST_S, OPEN_FIRST_S * OPEN_GROWTH ** min(breaker.opened, 16)) * (0.8 + 0.4 * u)
    doubted_at = now + min(open_for, DOUBT_S)
    return Breaker(
        state=state, failures=failures, opened=breaker.opened + 1, until=now + open_for, doubted_at=doubted_at
    )


def abandoned(breaker: Breaker) -> Breaker:
    """After a request whose caller went away before anything was learnt."""
    return msgspec.structs.replace(breaker, state=TRANSITIONS[breaker.state][Event.ABANDON])


class RetryBudget(msgspec.Struct, frozen=True):
    """Second attempts that are still allowed; `RETRY_SHARE` is earned by each request."""

    tokens: float = RETRY_BURST

    @property
    def has_one(self) -> bool:
        """Whether a second attempt is allowed."""
        return self.tokens >= 1.0

    def earned(self) -> "RetryBudget":
        """After a first attempt."""
        return RetryBudget(min(RETRY_BURST, self.tokens + RETRY_SHARE))

    def spent(self) -> "RetryBudget":
        """After a second attempt."""
        return RetryBudget(max(0.0, self.tokens - 1.0))
