"""Stop texts in a text that comes in pieces: what may be shown already, and whether it ends here.

What is shown does not depend on how the text was cut into pieces: it ends before the stop text that is complete first, and
nothing that could still become the beginning of one is shown. Work per piece is bounded by the piece and the stop texts.
"""

from collections.abc import Sequence


class StopStrings:
    """Watches one text. With no stop texts every piece passes as it is."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stopped = False
        self._stops = tuple(stops)
        self._held = ""

    def push(self, piece: str) -> str:
        """What of the text so far may be shown now, beyond what was; `stopped` tells whether it ends there."""
        if not self._stops or not piece:
            return piece
        text = self._held + piece
        # The first to be complete ends the text, as it would if it came letter by letter; of two, the longer one.
        found = min(
            ((place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0), default=None
        )
        if found is not None:
            self.stopped = True
            self._held = ""
            return text[: found[1]]
        held = max(_begun(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """What was held back, once the text ended without a stop text."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, stop: str) -> int:
    """How many of the last code points of `text` are the beginning of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
