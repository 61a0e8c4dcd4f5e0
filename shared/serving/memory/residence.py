"""How one version stands with memory: kept by the version, changed by `residency` alone. Loop's thread only."""

from shared.serving.decide.footprint import Footprint
from shared.serving.decide.residency import TENURE, Keep
from shared.serving.lanes.lanes import Lanes


class Residence:
    """`open`: requests may enter. `present`: the program is in memory, or on its way in or out (`busy`)."""

    __slots__ = (
        "busy", "evictions", "footprint", "gated", "keep", "last_used", "leaving", "load_s", "loaded_at", "loads", "open",
        "present", "recycled", "refused", "retry_at", "runs",
    )  # fmt: skip

    def __init__(self, footprint: Footprint, *, load_s: float = 0.0) -> None:
        """`load_s`: seconds a load takes, as far as is known before the first."""
        self.footprint = footprint
        self.open = False
        self.present = False
        self.busy = False
        self.gated = False
        """In memory, but nobody enters: it is asked to make room."""
        self.keep = Keep.NORMAL
        self.last_used = 0.0
        self.loaded_at = 0.0
        self.load_s = load_s
        self.runs = 0
        """Batches since the program was loaded."""
        self.loads = 0
        self.evictions = 0
        self.recycled = 0
        self.leaving: list[Lanes] = []
        """What still computes after it was let go; its memory is not free yet."""
        self.retry_at = 0.0
        self.refused = ""
        """Why it could not be brought back; not tried again before `retry_at`."""

    @property
    def settled_at(self) -> float:
        """From when on it may be asked to make room while it is in use."""
        return self.loaded_at + TENURE * self.load_s

    @property
    def held(self) -> int:
        """Bytes it takes."""
        return self.footprint.bytes if self.present else 0
