"""Which chunks may go: those nothing needs any more that were put long enough ago. Pure."""

from collections.abc import Iterable, Set

import msgspec

GRACE_S = 86400.0
"""How long ago a chunk that nothing needs must have been put before it goes."""


class Kept(msgspec.Struct, frozen=True):
    """A chunk as its store lists it: the digest of its content, bytes it takes there, and when it was put (Unix seconds)."""

    digest: str
    stored: int
    put_at: float


class Amount(msgspec.Struct, frozen=True):
    """So many chunks, of so many bytes in their store."""

    chunks: int = 0
    bytes: int = 0


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What a store holds: chunks that something needs, those too young to go (an upload may be under way), and those that may go."""

    needed: Amount
    young: Amount
    spare: tuple[Kept, ...]

    @property
    def collectable(self) -> Amount:
        """What removing the spare ones gives back."""
        return _amount(self.spare)


def survey(held: Iterable[Kept], needed: Set[str], *, now: float, grace: float) -> Survey:
    """Sort what is `held`: a chunk goes where it is not in `needed` and was put more than `grace` seconds ago."""
    used: list[Kept] = []
    young: list[Kept] = []
    spare: list[Kept] = []
    for one in held:
        (used if one.digest in needed else spare if now - one.put_at > grace else young).append(one)
    return Survey(needed=_amount(used), young=_amount(young), spare=tuple(spare))


def _amount(chunks: Iterable[Kept]) -> Amount:
    sizes = [one.stored for one in chunks]
    return Amount(len(sizes), sum(sizes))
