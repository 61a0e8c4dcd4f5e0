"""How long an attempt in the cloud may take: always a bound, always less than what is left of the deadline.  Pure."""

ANSWER_SHARE = 0.02
"""Of what is left: to hand over the answer, or to say that there is none, before the deadline."""
LONGEST_S = 60.0
"""Also where nobody set a deadline."""
RESERVE = 2.0
"""Of the device's predicted completion: kept back where it still has to answer if the cloud does not."""
RESERVED_AT_MOST = 0.5
"""Of what is left: beyond it, the cloud gets the time, since it was chosen."""


def timeout(left: float | None) -> float:
    """Seconds for one exchange, with `left` seconds to the deadline; None is no deadline."""
    return LONGEST_S if left is None else min(LONGEST_S, left * (1.0 - ANSWER_SHARE))


def with_reserve(deadline: float, completion: float | None, *, now: float, usual: float = 0.0) -> float:
    """The deadline of an attempt in the cloud after which the device could still answer.

    Args:
        deadline: the request's, monotonic seconds.
        completion: the device's predicted seconds; None where it cannot answer, and nothing is kept back.
        now: monotonic seconds.
        usual: what the cloud is predicted to take, in seconds: a reserve that leaves it less would only make it late.

    """
    if completion is None or completion * RESERVE > (deadline - now) * RESERVED_AT_MOST:
        return deadline
    until = deadline - completion * RESERVE
    return until if now + usual < until else deadline
