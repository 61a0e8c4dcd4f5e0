"""How many bytes a version's program takes in memory, and how many all of them may. Pure.

The manifest says it first: what the importer measured, else what lies on disk. What the process really grew by at each load
corrects it, smoothed, since other models compute and tokenize meanwhile.
"""

import msgspec

from shared.bundle.manifest import Manifest, Variant

SHARE = 0.6
"""Of the memory that is left to a process once its libraries are loaded, what programs may take. The rest is for what a load
takes beyond what stays (a program is read and repacked: about twice its weights for a moment), for batches, texts and caches."""
FIRST_WEIGHT, WEIGHT = 0.5, 0.25
UNDESCRIBED = 2
"""Times its bytes on disk, for a program whose manifest says nothing."""
_LEAST_SLACK = 64 << 20


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes a program is believed to take; never less than `least`, which lies on disk. `loads` corrected it."""

    bytes: int
    least: int = 0
    loads: int = 0


def described(manifest: Manifest, variant: Variant) -> Footprint:
    """What the manifest says."""
    sizes = {entry.path: entry.size for entry in manifest.files}
    on_disk = sum(sizes.get(path, 0) for path in variant.files)
    told = variant.requirements.memory_bytes or int(variant.measured.get("memory_bytes", 0.0)) or on_disk * UNDESCRIBED
    return Footprint(bytes=max(told, on_disk), least=on_disk)


def corrected(known: Footprint, grown: int) -> Footprint:
    """After a load by which the process grew by `grown` bytes; nothing is learnt where it did not grow."""
    if grown <= 0:
        return known
    weight = FIRST_WEIGHT if known.loads == 0 else WEIGHT
    smoothed = int(known.bytes + weight * (grown - known.bytes))
    return msgspec.structs.replace(known, bytes=max(known.least, smoothed), loads=known.loads + 1)


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """What a process's programs may take, and how far beyond them it may grow before one is suspected; bytes."""

    budget: int
    slack: int


def allowance(
    limit: int, used: int, *, budget: int | None = None, slack: int | None = None, processes: int = 1
) -> Allowance:
    """For a process that may have `limit` and has `used` already, where `processes` of its kind share the limit.

    `budget` and `slack` are what somebody set. Left alone, a process may grow by half of what neither it nor its programs have.
    """
    own = limit // max(1, processes)
    bound = int(SHARE * max(0, own - used)) if budget is None else budget
    return Allowance(budget=bound, slack=max(_LEAST_SLACK, (own - used - bound) // 2) if slack is None else slack)
