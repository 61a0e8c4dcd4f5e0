"""How many bytes an update moves: what a device that has one version lacks of another. Pure."""

import msgspec

from shared.bundle.chunks import chunks_of, missing
from shared.bundle.manifest import Manifest


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of the newer version, as a device with the same variant of the older one gets it.

    `size`: bytes of all distinct chunks, `moved` of those it lacks; `chunks` and `moved_chunks` count them. `known`: the older
    version has the variant at all.
    """

    variant: str
    known: bool
    size: int
    moved: int
    chunks: int
    moved_chunks: int

    @property
    def share(self) -> float:
        """Of the bytes, how many move: 0 to 1."""
        return self.moved / self.size if self.size else 0.0


def moved(older: Manifest, newer: Manifest) -> tuple[Moved, ...]:
    """What each variant of `newer` moves to a device that has the same variant of `older`, manifests not counted."""
    found = []
    known = {variant.name for variant in older.variants}
    for variant in newer.variants:
        files = newer.files_of(variant.name)
        held = chunks_of(older.files_of(variant.name)) if variant.name in known else ()
        wanted, lacking = chunks_of(files), missing(files, {chunk.digest for chunk in held})
        found.append(
            Moved(
                variant=variant.name,
                known=variant.name in known,
                size=sum(chunk.size for chunk in wanted),
                moved=sum(chunk.size for chunk in lacking),
                chunks=len(wanted),
                moved_chunks=len(lacking),
            )
        )
    return tuple(found)
