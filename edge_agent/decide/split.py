"""Which version of a model a request gets where the policy splits traffic.  Pure."""

from collections.abc import Collection, Mapping


def version_of(split: Mapping[str, float] | None, *, u: float, without: Collection[str] = ()) -> str | None:
    """The version whose share of the split holds `u` in [0, 1), shares taken in order of version; None without a split.

    Equal `u` get equal versions, so a request that comes again meets the same one. Versions in `without` have no share: their
    own is divided among the others as these are.
    """
    if not split:
        return None
    shares = [(version, share) for version, share in sorted(split.items()) if share > 0 and version not in without]
    total = sum(share for _, share in shares)
    chosen, left = None, u
    for version, share in shares:
        chosen = version
        # As a part of all, before anything is taken away: of the least floats there are no products.
        if left < share / total:
            break
        left -= share / total
    return chosen
