"""What devices' telemetry says of a version: requests drawn from a seed, as cells of history."""

import math
import random
from typing import NamedTuple

from cloud_core.decide.rollup import Cell, added
from shared.protocol.telemetry import histogram_of

RATE = 2.0
"""Requests per second of each device."""


class Behaviour(NamedTuple):
    """How a version does on devices. `fails`: the share of devices on which it does not load; `converges_s` None: never done."""

    converges_s: float | None = 5.0
    fails: float = 0.0
    slower: float = 1.0
    errors: float = 0.002
    saturated: float = 0.01
    differs: float = 0.02
    score: tuple[float, float] = (8.0, 2.0)
    non_finite: float = 0.0


GOOD = Behaviour()
PLANTED = {
    "latency": GOOD._replace(slower=10.0),
    "errors": GOOD._replace(errors=0.03),
    "scores": GOOD._replace(score=(4.0, 4.0)),
    "disagreement": GOOD._replace(differs=0.15),
    "saturation": GOOD._replace(saturated=0.2),
    "non-finite": GOOD._replace(non_finite=0.05),
}


class Requests:
    """Those of one version on one device: the same ones each time they are looked at, and more of them as time goes by."""

    def __init__(self, seed: str, device: str, version: str, behaviour: Behaviour) -> None:
        own = random.Random(f"{seed}/{device}")
        self._draw = random.Random(f"{seed}/{device}/{version}")
        # Devices differ from one another, and each differs a little from what it was an hour ago.
        self._median = 0.02 * own.lognormvariate(0.0, 0.3) * self._draw.lognormvariate(0.0, 0.03) * behaviour.slower
        self._behaviour = behaviour
        self._cell = Cell()
        self._count = 0

    def until(self, seconds: float) -> Cell:
        """All requests of the first `seconds`."""
        more = int(seconds * RATE) - self._count
        if more > 0:
            self._cell = added((self._cell, self._some(more)))
            self._count += more
        return self._cell

    def _some(self, count: int) -> Cell:
        draw, how = self._draw, self._behaviour

        def times(share: float, of: int) -> int:
            return sum(draw.random() < share for _ in range(of))

        answered = [draw.lognormvariate(math.log(self._median), 0.5) for _ in range(count)]
        scores = [draw.betavariate(*how.score) for _ in range(count)]
        broken = times(how.non_finite, count)
        compared = count // 4
        return Cell(
            counts={
                "requests": count,
                "errors": times(how.errors, count),
                "reasons/local-saturated": times(how.saturated, count),
                "compared": compared,
                "compared/differ": times(how.differs, compared),
            },
            histograms={
                "latency": histogram_of(answered),
                "confidence": histogram_of([0.0] * broken + [max(score, 1.0 - score) for score in scores[broken:]]),
                "scores/positive": histogram_of(scores),
            },
        )
