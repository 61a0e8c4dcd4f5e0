"""What the versions on this device did for their callers, counted for whoever judges a new one."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from edge_agent.decide.probation import Tally
from shared.serving.answer import Embedding, Label, Response, Result, Tensors
from shared.serving.metrics import OK
from shared.serving.oip.tensors import is_finite

CHECKED = 200
"""Answers of a version whose numbers are looked at: its first ones."""
OWN = "corrupt"
"""The outcome that is the version's own fault; of all others the caller, the load or the deadline is to blame."""
MOST = 256


class Evidence:
    """Owner of the tallies, by name and version; event loop only."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], Tally] = {}

    @property
    def tallies(self) -> Mapping[tuple[str, str], Tally]:
        """What was counted so far."""
        return MappingProxyType(self._tallies)

    def forget(self, name: str, version: str) -> None:
        """A version begins anew, with other bytes perhaps."""
        self._tallies.pop((name, version), None)

    def asked(self, name: str, version: str, outcome: str, response: Response | None) -> None:
        """The device was asked, and this became of it."""
        if response is not None:
            name, version = response.model, response.version
        if (response is None or outcome != OK) and outcome != OWN:
            return
        known = self._tallies.get((name, version))
        if known is None:
            if len(self._tallies) >= MOST:
                return
            known = Tally()
        self._tallies[name, version] = _added(known, response)


def _added(known: Tally, response: Response | None) -> Tally:
    if response is None:
        return msgspec.structs.replace(known, failures=known.failures + 1)
    look = known.checked < CHECKED
    seconds = response.timing.compute
    return Tally(
        answers=known.answers + 1,
        failures=known.failures,
        checked=known.checked + look,
        odd=known.odd + (look and not _finite(response.results)),
        fastest=seconds if known.fastest is None else min(seconds, known.fastest),
    )


def _finite(results: Sequence[Result]) -> bool:
    for result in results:
        match result:
            case Tensors():
                if not all(is_finite(array) for array in result.outputs.values()):
                    return False
            case Embedding():
                if not is_finite(result.embedding):
                    return False
            case Label():
                # NaN and infinity are what is not less than infinity.
                if not abs(result.score) < float("inf"):
                    return False
    return True
