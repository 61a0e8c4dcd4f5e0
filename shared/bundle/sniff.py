"""What a file is by its first bytes, whatever its name says."""

from pathlib import Path

HEAD = 512
"""Bytes that are looked at."""
PICKLE, ZIP, JSON, ARRAY = "a pickle", "a zip archive", "JSON", "a numpy array"

_MAGICS = (
    (b"PK\x03\x04", ZIP), (b"PK\x05\x06", ZIP), (b"\x89HDF\r\n\x1a\n", "an HDF5 file"), (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x7fELF", "a program of this machine"), (b"MZ", "a Windows program"), (b"\xcf\xfa\xed\xfe", "a macOS program"),
    (b"#!", "a script"), (b"<", "markup"), (b"GGUF", "a GGUF file"), (b"\x93NUMPY", ARRAY),
    (b"\x80\x01", PICKLE), (b"\x80\x02", PICKLE), (b"\x80\x03", PICKLE), (b"\x80\x04", PICKLE), (b"\x80\x05", PICKLE),
)  # fmt: skip
_LATER = ((4, b"ORTM", "an ORT format model"), (4, b"TFL3", "a TFLite model"), (257, b"ustar", "a tar archive"))
_OLD_PICKLE = b"(cilp}]"
"""What pickles of protocol 0, which have no mark of their own, begin with, in practice."""


def kind_of(head: bytes) -> str | None:
    """What the first `HEAD` bytes of a file show it to be; None for nothing known. Protocol 0 pickles may pass as text."""
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    for at, magic, kind in _LATER:
        if head[at : at + len(magic)] == magic:
            return kind
    start = head.lstrip()[:1]
    if start in (b"{", b"["):
        return JSON
    # A global is named on the first two lines: `cos\nsystem\n`, or a mark comes first: `(dp0\n`.
    if (
        start
        and start in _OLD_PICKLE
        and (b"\n(" in head[:HEAD] or head.startswith((b"(dp", b"(lp", b"(cp", b"(i", b"}q", b"]q")))
    ):
        return PICKLE
    return None


def kind_at(path: Path) -> str | None:
    """As `kind_of`, of a file. Blocks."""
    with path.open("rb") as file:
        return kind_of(file.read(HEAD))
