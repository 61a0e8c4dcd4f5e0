"""The form in which a chunk is kept and moved: packed with zstd where that pays, else as it is.

Invariants:

* a chunk's identity is the SHA-256 of its content, whatever form it is kept in;
* the form says itself which it is: packed ones, and no others, begin with zstd's magic number. So content that begins with it is
  packed whatever that saves;
* nothing is unpacked to more than the size that was told, which is known before the first byte is: a bomb is `Corrupt`.
"""

import zstandard

from shared.protocol.errors import Corrupt

ENCODING = "zstd"
"""Name of the packed form in HTTP's `Accept-Encoding` and `Content-Encoding` (RFC 8878)."""
MAGIC = zstandard.FRAME_HEADER
HEAD = 18
"""Bytes from which the form and the content's size are known: the longest frame header with its magic number."""
PAYS = 0.05
"""The least share of its bytes that packing must save."""
LEVEL = 3
WINDOW = 8 << 20
"""The largest window of a packed form, in bytes, as RFC 9659 bounds it for HTTP."""


def pack(content: bytes) -> bytes:
    """The form in which `content` is kept."""
    packed = zstandard.ZstdCompressor(level=LEVEL).compress(content)
    pays = len(packed) <= (1 - PAYS) * len(content)
    return packed if pays or is_packed(content) else content


def is_packed(head: bytes) -> bool:
    """Whether a kept form that begins with `head` is packed; needs 4 bytes of it."""
    return head.startswith(MAGIC)


def size_of(head: bytes, stored: int) -> int:
    """Bytes of the content of a kept form of `stored` bytes that begins with `head` (`HEAD` bytes, or all it has).

    Raises:
        Corrupt: a packed form that does not say.

    """
    if not is_packed(head):
        return stored
    try:
        size: int = zstandard.frame_content_size(head)
    except zstandard.ZstdError as error:
        raise Corrupt(f"a packed chunk begins wrongly: {error}", code="chunk-packing") from error
    if size < 0:
        raise Corrupt("a packed chunk does not say its size", code="chunk-packing")
    return size


def unpack(packed: bytes, size: int) -> bytes:
    """The content of a packed form: `size` bytes.

    Raises:
        Corrupt: it is no packed form, or of another size.

    """
    found = size_of(packed[:HEAD], len(packed)) if is_packed(packed) else -1
    if found != size:
        raise Corrupt(f"a packed chunk that should hold {size} B says {found}", code="chunk-packing")
    try:
        # Room for what the header says, and no more, is made: that was held against `size`.
        opener = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        return opener.decompress(packed, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt(f"a packed chunk cannot be unpacked: {error}", code="chunk-packing") from error
