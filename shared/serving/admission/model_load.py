"""How busy one model version is, as routing and a gateway see it: a snapshot, with the predictions that follow from it."""

import msgspec

from shared.protocol.reported import ModelState
from shared.serving.decide.calibration import Stretch
from shared.serving.decide.cost import Cost, predict


class ModelLoad(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of one version for routing. `expected_wait`: seconds until a batch formed now would start.

    `stretch` is how much longer things may take than the cost model says; `expected_wait` and `predict` have it in them. `turn` is
    that wait by the cost model alone, `company` the tokens of the batch that a request with a wait gets into.
    `full`: as much is under way as may be, and nothing is let in.
    """

    name: str
    version: str
    variant: str
    digest: str
    state: ModelState
    queued: int
    running: int
    expected_wait: float
    cost: Cost
    turn: float = 0.0
    company: int = 0
    stretch: Stretch = Stretch()
    full: bool = False

    def predict(self, tokens: int) -> float:
        """Seconds that `tokens` tokens take once they run; 0 before anything was measured."""
        return self.stretch.of(self._completion(tokens)) - self.turn * self.stretch.factor

    def caution(self, tokens: int) -> float:
        """Seconds of what `predict` says that are there to be sure."""
        return self.stretch.caution(self._completion(tokens))

    def _completion(self, tokens: int) -> float:
        return self.turn + predict(self.cost, max(tokens, self.company) if self.turn > 0.0 else tokens)
