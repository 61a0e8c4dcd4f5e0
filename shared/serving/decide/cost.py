"""Predicted time of a batch, `per_token * tokens + fixed`, fitted online. Pure: state in, state out.

Recursive least squares with exponential forgetting over the features (tokens / SCALE, 1): an old observation weighs
`FORGETTING ** age`, so the fit follows a device that is throttled or a neighbour that went away.
"""

import math

import msgspec

SCALE = 128.0
"""Tokens are divided by this, so that both features are near 1 and the fit is well conditioned."""
FORGETTING = 0.97
_TRUST = 1e3
"""Covariance may not grow beyond this: with one length only, forgetting would blow it up (wind-up)."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """The fit. `slope` is seconds per SCALE tokens, `fixed` seconds per batch; `p` the covariance (p00, p01, p11)."""

    slope: float = 0.0
    fixed: float = 0.0
    p: tuple[float, float, float] = (_TRUST, 0.0, _TRUST)
    observations: int = 0
    mean: float = 0.0
    """Forgetting average of the measured seconds per batch."""
    mean_tokens: float = 0.0
    """Forgetting average of the tokens per batch: the fitted line is only known near this point."""


def observed(cost: Cost, tokens: int, seconds: float) -> Cost:
    """The fit after one more batch of `tokens` padded tokens that took `seconds`; nonsense is left out."""
    if tokens <= 0 or not 0.0 <= seconds < math.inf:
        return cost
    x = tokens / SCALE
    p00, p01, p11 = cost.p
    g0, g1 = p00 * x + p01, p01 * x + p11
    denominator = FORGETTING + x * g0 + g1
    k0, k1 = g0 / denominator, g1 / denominator
    error = seconds - (cost.slope * x + cost.fixed)
    n00 = min(_TRUST, (p00 - k0 * g0) / FORGETTING)
    n01 = (p01 - k0 * g1) / FORGETTING
    n11 = min(_TRUST, (p11 - k1 * g1) / FORGETTING)
    limit = math.sqrt(max(n00, 0.0) * max(n11, 0.0))
    weight = max(1.0 / (cost.observations + 1), 1.0 - FORGETTING)
    return Cost(
        slope=cost.slope + k0 * error,
        fixed=cost.fixed + k1 * error,
        p=(max(n00, 0.0), max(-limit, min(limit, n01)), max(n11, 0.0)),
        observations=cost.observations + 1,
        mean=cost.mean + weight * (seconds - cost.mean),
        mean_tokens=cost.mean_tokens + weight * (tokens - cost.mean_tokens),
    )


def predict(cost: Cost, tokens: int, *, batches: int = 1) -> float:
    """Seconds that `tokens` tokens in `batches` batches are expected to take; 0 before anything was measured.

    Neither part of the line is let below zero: a noisy fit, or one from batches of a single length, must not promise that
    more work takes less time, nor that each token costs more than a whole batch did.
    """
    if tokens <= 0 or cost.observations == 0:
        return 0.0
    if cost.slope < 0.0:
        return cost.mean * batches
    if cost.fixed < 0.0:
        return cost.mean / cost.mean_tokens * tokens
    return cost.slope * tokens / SCALE + cost.fixed * batches
