"""How long until a batch that is formed now would start. Pure."""

from collections.abc import Sequence

from shared.serving.decide.batching import Budget
from shared.serving.decide.cost import Cost, predict


def expected_wait(
    cost: Cost,
    budget: Budget,
    *,
    rows: int,
    tokens: int,
    running: Sequence[tuple[int, float]],
    lanes: int,
    now: float,
) -> float:
    """Seconds until what comes now would be computed.

    Args:
        cost: the fitted time of a batch.
        budget: the bounds of one batch.
        rows: of what waits.
        tokens: of what waits.
        running: padded tokens of what each busy lane computes, and since when.
        lanes: how many batches may be computed at once.
        now: on the clock of `running`, in seconds.

    """
    batches = max(-(-rows // budget.rows), -(-tokens // budget.tokens))
    left = 0.0
    if len(running) >= lanes:
        # The first lane to be free takes the next batch; all of them share what waits.
        left = max(0.0, min([predict(cost, padded) - (now - since) for padded, since in running]))
    return left + predict(cost, tokens, batches=batches) / lanes
