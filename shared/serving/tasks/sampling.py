"""The next token from a program's scores: the likeliest, or drawn by temperature and nucleus (top-p) with the request's own seed."""

import numpy as np

from shared.serving.answer import Array
from shared.serving.tasks.generation_parameters import Asked

_TOP = 256
"""Tokens that are looked at first for a nucleus: sorting a whole vocabulary for each token would cost more than it takes."""


class Sampler:
    """Draws the tokens of one row: one random number each, so that what mates it has in a batch changes nothing."""

    def __init__(self, asked: Asked) -> None:
        self._temperature = asked.temperature
        self._top_p = asked.top_p
        # Without a seed the draws are the system's own entropy; a negative one is as good as any other.
        seed = None if asked.seed is None else asked.seed % 2**64
        self._random = np.random.default_rng(seed) if asked.temperature > 0.0 else None

    def next(self, logits: Array) -> int:
        """The token drawn from `logits`, one finite number per token of the vocabulary."""
        if self._random is None:
            return int(logits.argmax())
        # In float64 and from the highest down: the smallest temperature overflows nothing.
        scores = (logits.astype(np.float64) - float(logits.max())) / self._temperature
        weights = np.exp(scores)
        weights /= weights.sum()
        order = _nucleus(weights, self._top_p)
        reached = np.cumsum(weights if order is None else weights[order])
        place = int(np.searchsorted(reached, self._random.random() * reached[-1], side="right"))
        place = min(place, len(reached) - 1)
        return place if order is None else int(order[place])


def _nucleus(weights: Array, top_p: float) -> Array | None:
    """The fewest tokens that have `top_p` of the weight together, heaviest first; None for all tokens, in their own order."""
    if top_p >= 1.0:
        return None
    order = np.argsort(-weights, kind="stable") if len(weights) <= _TOP else _heaviest(weights, top_p)
    reached = np.cumsum(weights[order])
    enough: Array = order[: int(np.searchsorted(reached, top_p, side="left")) + 1]
    return enough


def _heaviest(weights: Array, top_p: float) -> Array:
    few = np.argpartition(-weights, _TOP)[:_TOP]
    chosen = few if float(weights[few].sum()) >= top_p else np.arange(len(weights))
    # By weight, and by id where weights are equal.
    order: Array = chosen[np.lexsort((chosen, -weights[chosen]))]
    return order
