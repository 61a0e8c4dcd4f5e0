"""The golden set that travels: inputs that every variant answers as expected, and each variant's tolerance.

A device replays it, and must not refuse a variant for a near tie that tips over on its processor: an input stays only if each variant
answers it as expected alone, in a batch, and with another machine's rounding.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.protocol.errors import Refusal, Refused
from shared.serving.answer import Embedding, Result, Tensors
from shared.serving.versions.golden import Golden, difference

EXACT = ("cpu-fp32", "torch")
"""Variants in whose arithmetic a batch changes nothing beyond the last digits."""
LEAST_TOLERANCE, NARROW_TOLERANCE = 1e-4, 1e-2
"""Of replaying the golden set on another machine: scores and vectors' entries in fp32, and in narrower arithmetic."""
_MARGIN = 2.0
"""A tolerance is this many times the largest difference seen."""
_LADDER = tuple(float(f"{step}e{power}") for power in range(-4, 4) for step in (1, 2, 5))
_LARGEST_SCORE = 0.2
"""Of a probability: what differs by more is another answer."""


@dataclass(frozen=True)
class Answers:
    """One variant's answers to the golden inputs: alone, in batches, and with another machine's rounding."""

    alone: list[Result]
    together: list[Result]
    elsewhere: list[Result]


def fitted(golden: Golden, told: Mapping[str, Answers]) -> Golden:
    """The items that every variant reproduces in each of its ways, and the tolerance each variant needs for that.

    Raises:
        Refused: there is none.

    """
    needs = {
        name: [
            max(_needed(item.expect, result) for result in results)
            for item, *results in zip(golden.items, each.alone, each.together, each.elsewhere, strict=True)
        ]
        for name, each in told.items()
    }
    kept = [i for i in range(len(golden.items)) if all(need[i] < float("inf") for need in needs.values())]
    if golden.items and not kept:
        raise Refused(
            "no input of the golden set has the same answer from every variant",
            kind=Refusal.UNPROCESSABLE,
            field="variants",
            value=", ".join(told),
            allowed="variants that reproduce the golden set",
            code="golden-differs",
        )
    tolerances = {
        name: max(LEAST_TOLERANCE if name in EXACT else NARROW_TOLERANCE, _MARGIN * max(need[i] for i in kept))
        for name, need in needs.items()
        if kept
    }
    return Golden(items=tuple(golden.items[i] for i in kept), tolerances=tolerances)


def _needed(expect: Mapping[str, object], result: Result) -> float:
    """The least tolerance with which `result` is what is expected; infinite where it is something else."""
    largest = _LADDER[-1] if isinstance(result, Embedding | Tensors) else _LARGEST_SCORE
    steps = (step for step in _LADDER if step <= largest)
    return next((step for step in steps if difference(expect, result, step) is None), float("inf"))
