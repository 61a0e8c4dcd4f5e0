"""Which version of a model a request gets where the policy splits traffic.  Pure."""

from collections.abc import Mapping


def version_of(split: Mapping[str, float] | None, *, u: float) -> str | None:
    """The version whose share of the split holds `u` in [0, 1), shares taken in order of version; None without a split.

    Equal `u` get equal versions, so a request that comes again meets the same one.
    """
    if not split:
        return None
    left = u * sum(split.values())
    chosen = None
    for version, share in sorted(split.items()):
        if share <= 0:
            continue
        chosen = version
        if left < share:
            break
        left -= share
    return chosen
