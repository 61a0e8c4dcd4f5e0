"""Predicted time of a batch, `per_token * tokens + fixed`, fitted online. Pure: state in, state out.

Least squares over the batches seen, an old one weighing `FORGETTING ** age`, so that the fit follows a device that is throttled or a
neighbour that went away. Batches of one size say how long those take and nothing of others: as far as sizes did not vary of late, the
line keeps its shape and is only scaled. Fitted to them alone it would turn on the noise around that one point (the wind-up of
estimators that forget; Astrom and Wittenmark, Adaptive Control, chapter 11), and what it says of a batch sixteen times as large
would be a draw.
"""

import math

import msgspec

FORGETTING = 0.97
ALIKE, VARIED = 0.03, 0.12
"""Variance of the tokens, over their mean squared: up to `ALIKE` batches say nothing of the line's shape, from `VARIED` on everything."""
MOST_SLOWER = 4.0
"""One batch counts as at most this many times as slow as known: a stall that happens once must not move everything."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """The fit: `per_token` and `fixed` seconds, neither below zero, and the forgetting moments that it comes from."""

    per_token: float = 0.0
    fixed: float = 0.0
    observations: int = 0
    mean: float = 0.0
    """Forgetting average of the measured seconds per batch."""
    mean_tokens: float = 0.0
    """Forgetting average of the tokens per batch: the line goes through this point."""
    variance: float = 0.0
    """Of the tokens."""
    covariance: float = 0.0
    """Of tokens and seconds."""


def observed(cost: Cost, tokens: int, seconds: float) -> Cost:
    """The fit after one more batch of `tokens` padded tokens that took `seconds`; nonsense is left out."""
    if tokens <= 0 or not 0.0 <= seconds < math.inf:
        return cost
    weight = max(1.0 / (cost.observations + 1), 1.0 - FORGETTING)
    # A machine that became slower would have taken longer for what is remembered, too: otherwise larger batches of before would stay fast.
    known = predict(cost, tokens)
    slower = 1.0 + (1.0 - FORGETTING) * (min(MOST_SLOWER, seconds / known) - 1.0) if known > 0.0 else 1.0
    dx, dy = tokens - cost.mean_tokens, seconds - cost.mean * slower
    mean, mean_tokens = cost.mean * slower + weight * dy, cost.mean_tokens + weight * dx
    variance = (1.0 - weight) * (cost.variance + weight * dx * dx)
    covariance = (1.0 - weight) * (cost.covariance * slower + weight * dx * dy)
    told = min(1.0, max(0.0, variance / (mean_tokens * mean_tokens) - ALIKE) / (VARIED - ALIKE))
    slope = (1.0 - told) * _scaled(cost, mean_tokens, mean) + (told * covariance / variance if told else 0.0)
    # A noisy fit must not promise that more work takes less time, nor that each token costs more than a whole batch did.
    slope = min(max(0.0, slope), mean / mean_tokens)
    return Cost(
        per_token=slope,
        fixed=max(0.0, mean - slope * mean_tokens),
        observations=cost.observations + 1,
        mean=mean,
        mean_tokens=mean_tokens,
        variance=variance,
        covariance=covariance,
    )


def _scaled(cost: Cost, tokens: float, seconds: float) -> float:
    """Slope of the line known so far, scaled until it goes through (`tokens`, `seconds`); of none, half of the time goes by tokens."""
    known = cost.per_token * tokens + cost.fixed
    return seconds * (cost.per_token / known if known > 0.0 else 0.5 / tokens)


def predict(cost: Cost, tokens: int, *, batches: int = 1) -> float:
    """Seconds that `tokens` tokens in `batches` batches are expected to take; 0 before anything was measured."""
    if tokens <= 0 or cost.observations == 0:
        return 0.0
    return cost.per_token * tokens + cost.fixed * batches
