"""Whether a session of one program is faster than one of another on this machine: both run in turns on the same inputs."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from cloud_core.importer.folding import Array
from cloud_core.importer.running import run_session
from shared.protocol.errors import Refusal, Refused

LEAST = 1.05
"""Below this, two sessions differ by no more than chance."""
_ROUNDS = 15


class Gain(NamedTuple):
    """Milliseconds of the slower-or-not original and of the other, medians of one thread."""

    before: float
    after: float

    @property
    def factor(self) -> float:
        """How many times faster."""
        return self.before / self.after


def gain(before: Path, after: Path, samples: Sequence[Mapping[str, Array]]) -> Gain:
    """Both programs timed on `samples`, one at least."""
    sessions = [run_session(path, threads=1) for path in (before, after)]
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(_ROUNDS + 1):
        for session, found in zip(sessions, times, strict=True):
            began = time.perf_counter()
            for sample in samples:
                session.run(None, dict(sample))
            if round_:  # the first allocates
                found.append((time.perf_counter() - began) * 1000 / len(samples))
    return Gain(median(times[0]), median(times[1]))


def check_gain(variant: str, found: Gain) -> None:
    """Refuse a variant that gains nothing, with the figures."""
    if found.factor < LEAST:
        raise Refused(
            f"{variant} gains nothing on this machine: {found.after:.3f} ms a run, fp32 takes {found.before:.3f} ms",
            kind=Refusal.UNPROCESSABLE,
            field=f"variants.{variant}",
            value=f"{found.factor:.2f} times faster",
            allowed=f"at least {LEAST}",
            code="no-gain",
        )
