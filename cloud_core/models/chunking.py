"""Where files are cut into chunks: by what they contain (FastCDC), so that a change moves the chunks around it and no others.

Invariant: the cuts follow from the bytes and the class of the file's size alone, so the same file always gives the same chunks.

W. Xia et al., "FastCDC: a Fast and Efficient Content-Defined Chunking Approach for Data Deduplication", USENIX ATC 2016.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from fastcdc import fastcdc

from shared.bundle.store import disk

AVERAGES = ((8 << 20, 32 << 10), (128 << 20, 128 << 10), (1 << 30, 512 << 10))
"""Files below a size are cut into chunks of an average: a device makes each chunk durable by itself, so large files get fewer."""
LARGEST_AVERAGE = 1 << 20
SPREAD = 4
"""The least chunk is an average by this, the largest that many averages."""


def average(size: int) -> int:
    """Bytes that a chunk of a file of `size` bytes has on average."""
    return next((each for below, each in AVERAGES if size < below), LARGEST_AVERAGE)


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
