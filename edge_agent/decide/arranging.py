"""How a version is to run on this device, and who says so.

What the user of the device set holds, whatever anybody measured; then what the fleet was told for this kind of device; then what this
device measured itself; then what is sensible for its cores. A version is never kept waiting for a measurement.
"""

from collections.abc import Collection
from enum import StrEnum

import msgspec

from shared.bundle.manifest import Variant
from shared.serving.arrangement import Arrangement

MOST_LANES = 8
"""Lanes nobody measured: beyond these, what they share costs more than they bring."""
SLOW_MS = 10.0
"""A text of 32 tokens that takes one core longer than this is worth several cores."""
MOST_THREADS = 4
_LARGEST = 1 << 16


class Source(StrEnum):
    """Who says how a version runs."""

    SETTINGS = "settings"
    TOLD = "told"
    MEASURED = "measured"
    DEFAULT = "default"


class Fixed(msgspec.Struct, frozen=True, kw_only=True):
    """What the user of the device set, or the limits of its generation; None leaves it open."""

    lanes: int | None = None
    threads: int | None = None

    @property
    def everything(self) -> bool:
        """Whether no share of the cores is left to be chosen."""
        return self.lanes is not None and self.threads is not None


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What the user of the device set: what is fixed, whether nothing else computes on it, and seconds a run may take."""

    fixed: Fixed = Fixed()
    dedicated: bool = False
    seconds: float = 20.0


class Arranged(msgspec.Struct, frozen=True, kw_only=True):
    """How a version runs, and who says so. `ignored`: why something that was said was not followed."""

    arrangement: Arrangement
    source: Source
    ignored: str = ""


def arrange(
    fixed: Fixed,
    variant: Variant,
    *,
    told: Arrangement | None,
    measured: Arrangement | None,
    cores: int,
    runtimes: Collection[str],
    failed: Collection[Arrangement] = (),
) -> Arranged:
    """How `variant` runs here.

    Args:
        fixed: lanes and threads that are not to be chosen.
        variant: of the manifest.
        told: what the fleet was told for this kind of device.
        measured: what this device found, within what is fixed.
        cores: there are, for this process.
        runtimes: that are here.
        failed: how it was not loaded when that was tried.

    """
    ignored = ""
    for said, source in ((told, Source.TOLD), (measured, Source.MEASURED)):
        if said is None:
            continue
        own = _with(said, fixed)
        if lack := "it did not run like that" if own in failed else _lack(own, cores, runtimes, fixed):
            ignored = ignored or f"{source.value}: {lack}"
            continue
        return Arranged(arrangement=own, source=source, ignored=ignored)
    source = Source.SETTINGS if fixed.everything else Source.DEFAULT
    return Arranged(arrangement=by_default(fixed, variant, cores), source=source, ignored=ignored)


def by_default(fixed: Fixed, variant: Variant, cores: int) -> Arrangement:
    """What is sensible where nobody measured: as many lanes as there are cores, wider ones for a slow model or many cores."""
    slow = variant.measured.get("ms_1x32", 0.0) > SLOW_MS
    wide = min(MOST_THREADS, cores) if slow else max(1, cores // MOST_LANES)
    most = cores if fixed.lanes is None else cores // fixed.lanes
    threads = fixed.threads or max(1, min(wide, most))
    lanes = fixed.lanes or max(1, min(MOST_LANES, cores // threads))
    return Arrangement(lanes=lanes, threads=threads)


def _with(said: Arrangement, fixed: Fixed) -> Arrangement:
    lanes = said.lanes if fixed.lanes is None else fixed.lanes
    threads = said.threads if fixed.threads is None else fixed.threads
    return msgspec.structs.replace(said, lanes=lanes, threads=threads)


def _lack(said: Arrangement, cores: int, runtimes: Collection[str], fixed: Fixed) -> str:
    """Why this cannot be followed here; empty where it can."""
    numbers = (said.lanes, said.threads, said.rows or 1, said.tokens or 1)
    if not all(1 <= number <= _LARGEST for number in numbers):
        return "impossible numbers"
    if said.runtime not in runtimes:
        return f"there is no {said.runtime} here"
    if said.lanes * said.threads > cores and not fixed.everything:
        return f"{said.lanes} lanes of {said.threads} threads are more than the {cores} cores here"
    return ""
