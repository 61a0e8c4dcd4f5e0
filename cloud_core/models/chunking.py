"""Where files are cut into chunks: by what they contain (FastCDC), so that a change moves the chunks around it and no others.

Invariant: the cuts follow from the bytes and the class of the file's size alone, so the same file always gives the same chunks.

W. Xia et al., "FastCDC: a Fast and Efficient Content-Defined Chunking Approach for Data Deduplication", USENIX ATC 2016.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from fastcdc import fastcdc

from shared.bundle.store import disk

SMALLEST_AVERAGE, LARGEST_AVERAGE = 32 << 10, 1 << 20
SPREAD = 4
"""The least chunk is an average by this, the largest that many averages."""
MOST = 0.05
"""Two of the largest chunks of a file are at most this share of it, so that a change in one place of a model moves no more; within
that, large ones: a device asks for each chunk, and makes it durable, by itself."""


def average(size: int) -> int:
    """Bytes that a chunk of a file of `size` bytes has on average: a power of two, so that sizes that differ little agree."""
    fits = int(size * MOST / (2 * SPREAD))
    return min(max(1 << max(fits.bit_length() - 1, 0), SMALLEST_AVERAGE), LARGEST_AVERAGE)


def pieces(path: Path) -> Iterator[bytes]:
    """The file's bytes, chunk by chunk.

    Raises:
        Transient: the disk did not give them.

    """
    with disk(f"reading {path}"), path.open("rb") as file:
        size = path.stat().st_size
        if size == 0:
            return
        most = average(size)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            cuts = [cut.length for cut in fastcdc(view, most // SPREAD, most, most * SPREAD)]
        for length in cuts:
            yield file.read(length)
