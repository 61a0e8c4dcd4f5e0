"""Is the next request near enough to be waited for awake?  Pure.

The gaps between the end of one request and the beginning of the next are averaged; one beyond `horizon` counts as twice that, however
long it was. So two requests in quick succession begin it, and a few that do not come end it.
"""

WEIGHT = 0.3
NEVER = float("inf")


def observed(mean: float, gap: float, horizon: float) -> float:
    """The mean gap after one more; all in seconds. `mean` is `NEVER` before the first."""
    counted = min(max(0.0, gap), 2.0 * horizon)
    return counted if mean == NEVER else mean + WEIGHT * (counted - mean)


def is_near(mean: float, horizon: float) -> bool:
    """Whether the next request is likely to come within `horizon` seconds."""
    return mean < horizon
