"""Which chunks are missing, and in which order to fetch them. Pure."""

from collections.abc import Iterable, Set

from shared.bundle.manifest import Chunk, File


def chunks_of(files: Iterable[File]) -> tuple[Chunk, ...]:
    """Every distinct chunk of `files`, in the order of the files."""
    seen: dict[str, Chunk] = {}
    for file in files:
        for chunk in file.chunks:
            seen.setdefault(chunk.digest, chunk)
    return tuple(seen.values())


def missing(files: Iterable[File], held: Set[str]) -> tuple[Chunk, ...]:
    """The distinct chunks of `files` that are not in `held` (digests), in file order."""
    return tuple(chunk for chunk in chunks_of(files) if chunk.digest not in held)


def space_for(files: Iterable[File], wanted: Iterable[Chunk]) -> int:
    """Bytes that installing `files` takes on a disk: the chunks still `wanted`, and the files they are assembled into beside them."""
    return sum(chunk.size for chunk in wanted) + sum(entry.size for entry in files)
