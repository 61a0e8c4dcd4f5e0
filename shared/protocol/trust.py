"""What both sides say about trust in model versions: names of TUF metadata files and targets, and how a device stands with them.

Metadata is The Update Framework's (TUF specification 1.0): `root.json` and its numbered versions, `timestamp.json`, and with
consistent snapshots `N.snapshot.json` and `N.targets.json`. A target is a version's manifest.
"""

import re
from enum import StrEnum

import msgspec

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
ROLES = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)
PIN = "pin.json"
"""A `SignedRoot`, for a device that has no root from its enrolment."""
MAX_PIN = 600_000
PIN_KIND = "tuf-root"
_FILE = re.compile(r"(?:([1-9]\d{0,17})\.)?(root|targets|snapshot|timestamp)\.json")


class RootNotice(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's root, as text. `kind` keeps the signature from being taken for one over anything else."""

    kind: str
    tenant: str
    root: str


class SignedRoot(msgspec.Struct, frozen=True, kw_only=True):
    """A `RootNotice` as JSON text, signed with the key that enrolment pinned for generations: trusted whatever carried it."""

    key_id: str
    signature: str
    payload: str


class TrustState(StrEnum):
    """How a device stands with its tenant's metadata. All but the first two are alarms; none stops what runs."""

    FRESH = "fresh"
    OFFLINE = "offline"
    STALE = "stale"
    REFUSED = "refused"
    UNPINNED = "unpinned"


class TrustReport(msgspec.Struct, frozen=True, kw_only=True):
    """`versions` of the accepted metadata by role; it holds until `expires_at` (Unix seconds).

    `pinned_root` is the SHA-256 of the root everything follows from, `pinned_later` says that it did not come with the enrolment.
    """

    state: TrustState
    versions: dict[str, int] = {}
    expires_at: float | None = None
    pinned_root: str | None = None
    pinned_later: bool = False
    error: str | None = None

    @property
    def alarm(self) -> bool:
        """Whether a person should look."""
        return self.state not in (TrustState.FRESH, TrustState.OFFLINE)


def target_path(model: str, version: str) -> str:
    """The target of a version's manifest; names hold no `/`, so no two versions share one."""
    return f"{model}/{version}"


def role_and_version(file: str) -> tuple[str, int | None] | None:
    """What a metadata file's name asks for, None for the newest; None for a name that is none."""
    found = _FILE.fullmatch(file)
    return None if found is None else (found[2], None if found[1] is None else int(found[1]))
