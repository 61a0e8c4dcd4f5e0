"""One tenant's chunks: named by the SHA-256 of their content, packed where that pays, in a folder or an object store.

Invariants:

* a chunk is here only once its content was verified and is durable;
* a tenant's store has nothing of another's: a chunk that only another tenant has is a chunk that is not here, whatever is asked;
* content is hashed again whenever it is read here; a chunk that rotted is removed, so that it counts as missing;
* a chunk that is put again counts as young again, which keeps garbage collection off it.

Everything blocks on the store: callers on an event loop use `asyncio.to_thread`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from cloud_core.decide.spare_chunks import Kept
from shared.bundle.manifest import Chunk
from shared.bundle.packing import HEAD, is_packed, pack, size_of, unpack
from shared.protocol import names
from shared.protocol.errors import Corrupt, Refusal, Refused


class Begun(NamedTuple):
    """The first bytes of a kept form, and the number of all."""

    head: bytes
    stored: int


class Blobs(Protocol):
    """Where kept forms are. Every method raises `Transient` where the storage is away, full or failing."""

    lanes: int
    """How many questions are best asked at the same time."""

    def put(self, digest: str, data: bytes) -> None:
        """Keep `data`, durably and as a whole or not at all; what is there under the name is replaced."""

    def get(self, digest: str, begin: int = 0, end: int | None = None) -> bytes | None:
        """The bytes from `begin` on, before `end`; None where there is none of the name."""

    def begin(self, digest: str, length: int) -> Begun | None:
        """The first `length` bytes; None where there is none of the name."""

    def delete(self, digests: Sequence[str]) -> None:
        """Remove; harmless for those that are not there."""

    def list(self) -> Iterator[Kept]:
        """All, in no order."""

    def discard_unfinished(self, *, older_than: float) -> None:
        """Remove what writers that died before `older_than` (Unix seconds) left."""


class Look(NamedTuple):
    """A chunk that is here: bytes of its content, bytes of its kept form, and whether that is packed."""

    size: int
    stored: int
    packed: bool


class Chunks:
    """The chunks in `blobs`."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def put(self, digest: str, data: bytes) -> None:
        """Keep a chunk, durably.

        Raises:
            Corrupt: the bytes are not what `digest` names.
            Transient: the store does not take it; nothing is left behind.

        """
        names.checked("digest", digest, field="digest")
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise Corrupt(f"bytes hash to {found}, not to {digest}", code="chunk-mismatch")
        self._blobs.put(digest, pack(data))

    def look(self, digest: str) -> Look | None:
        """What is here under `digest`; None for nothing, and for a packed form that begins wrongly."""
        names.checked("digest", digest, field="digest")
        begun = self._blobs.begin(digest, HEAD)
        try:
            return begun and Look(size_of(begun.head, begun.stored), begun.stored, is_packed(begun.head))
        except Corrupt:
            return None

    def size(self, digest: str) -> int | None:
        """Bytes of the chunk's content; None when it is not here."""
        found = self.look(digest)
        return None if found is None else found.size

    def has(self, digest: str) -> bool:
        """Whether the chunk is here."""
        return self.look(digest) is not None

    def sizes(self, digests: Iterable[str]) -> dict[str, int]:
        """Bytes of those that are here, many asked at once; in the order asked."""
        wanted = list(dict.fromkeys(digests))
        if self._blobs.lanes == 1:
            found = list(map(self.size, wanted))
        else:
            with ThreadPoolExecutor(self._blobs.lanes) as pool:
                found = list(pool.map(self.size, wanted))
        return {digest: size for digest, size in zip(wanted, found, strict=True) if size is not None}

    def lacking(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Those of `chunks` that are not here in their size."""
        held = self.sizes(chunk.digest for chunk in chunks)
        return [chunk for chunk in chunks if held.get(chunk.digest) != chunk.size]

    def kept(self, digest: str, begin: int = 0, end: int | None = None) -> bytes:
        """Bytes of the kept form, which whoever asks verifies.

        Raises:
            Refused: not here.

        """
        data = self._blobs.get(names.checked("digest", digest, field="digest"), begin, end)
        if data is None:
            raise Refused("no such chunk", kind=Refusal.NOT_FOUND, field="digest", value=digest)
        return data

    def get(self, digest: str) -> bytes:
        """The chunk's content.

        Raises:
            Refused: not here.
            Corrupt: it rotted; the chunk is gone now and can be put again.
            Transient: the store did not give it.

        """
        data = self.kept(digest)
        try:
            content = unpack(data, size_of(data[:HEAD], len(data))) if is_packed(data) else data
            found = hashlib.sha256(content).hexdigest()
        except Corrupt as error:
            found = error.message
        if found != digest:
            self.delete((digest,))
            raise Corrupt(f"chunk {digest} rotted in its store: {found}", code="chunk-rotten")
        return content

    def read(self, digest: str) -> Iterator[bytes]:
        """As `get`, for whoever reads any store."""
        yield self.get(digest)

    blocks = read

    def delete(self, digests: Sequence[str]) -> None:
        """Remove chunks; harmless for those that are not here."""
        self._blobs.delete([names.checked("digest", digest, field="digest") for digest in digests])

    def list(self) -> Iterator[Kept]:
        """Every chunk as it is kept."""
        return self._blobs.list()

    def discard_unfinished(self, *, older_than: float) -> None:
        """Remove what writers that died before `older_than` (Unix seconds) left."""
        self._blobs.discard_unfinished(older_than=older_than)
