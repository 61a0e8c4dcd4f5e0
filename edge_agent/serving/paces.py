"""How fast each model was answered lately, in one place; bounded. Event loop only."""

from collections import OrderedDict

from edge_agent.decide import pace
from edge_agent.decide.pace import Pace

MODELS = 64
"""The one unused for longest goes."""


class Paces:
    """Owner of the measurements of one place."""

    def __init__(self) -> None:
        self._paces: OrderedDict[str, Pace] = OrderedDict()

    def answered(self, model: str, seconds: float) -> None:
        """`model` was answered after `seconds`."""
        self._paces[model] = pace.observed(self._paces.pop(model, Pace()), seconds)
        if len(self._paces) > MODELS:
            self._paces.popitem(last=False)

    def p95(self, model: str) -> float | None:
        """Seconds; None while too little was seen."""
        known = self._paces.get(model)
        return None if known is None else pace.p95(known)

    def beyond(self, model: str, seconds: float) -> float | None:
        """The share of answers that took longer than `seconds`; None while too little was seen."""
        known = self._paces.get(model)
        return None if known is None else pace.beyond(known, seconds)
