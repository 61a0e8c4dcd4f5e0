"""Which identifiers are allowed, in one place: they travel in topics, paths, labels and file names.

Anything outside these sets is refused where it enters, so that no `+`, `#`, `/`, `..` or NUL reaches a topic or a path.
"""

import re

from shared.protocol.errors import Refused

SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
MODEL = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
VERSION = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)
DIGEST = re.compile(r"[0-9a-f]{64}")
FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
CLIENT = re.compile(r"[A-Za-z0-9._:-]{1,64}")

ALLOWED = {
    "slug": "1 to 64 of a-z, 0-9 and '-', not at the ends",
    "model": "1 to 64 of a-z, 0-9, '.', '_' and '-', not at the ends",
    "version": "a semantic version such as 1.2.0",
    "digest": "64 lower-case hexadecimal characters (SHA-256)",
    "file": "1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-', no leading dot or '-', no folder",
    "request id": "1 to 128 of A-Z, a-z, 0-9, '.', '_', ':' and '-'",
    "client": "1 to 64 of A-Z, a-z, 0-9, '.', '_', ':' and '-'",
}
_PATTERNS = {
    "slug": SLUG,
    "model": MODEL,
    "version": VERSION,
    "digest": DIGEST,
    "file": FILE,
    "request id": REQUEST_ID,
    "client": CLIENT,
}


def checked(kind: str, value: str, *, field: str) -> str:
    """Return `value` if it is a well-formed `kind` (a key of `ALLOWED`); raise `Refused` naming `field` otherwise."""
    if _PATTERNS[kind].fullmatch(value) is None:
        raise Refused(f"not a valid {kind}", field=field, value=value, allowed=ALLOWED[kind])
    return value
