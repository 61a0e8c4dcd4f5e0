"""How a device stands with its tenant's TUF metadata, and that no accepted version is followed by an older one.  Pure."""

from collections.abc import Mapping

import msgspec

from shared.protocol.errors import Corrupt, TidelineError, Transient
from shared.protocol.trust import ROOT, TrustState

EXPIRED = "trust-expired"
"""Code of the error where what is served, or the way to it, has expired; any other `Corrupt` means that it does not verify."""


class Accepted(msgspec.Struct, frozen=True):
    """Metadata of one role that was accepted. `scope` names the keys its version counts under (empty: it counts for ever)."""

    version: int
    scope: str
    expires_at: float


class Fallen(msgspec.Struct, frozen=True):
    """A version below one that was accepted before."""

    role: str
    version: int
    floor: int


def fallen(floors: Mapping[str, Accepted], seen: Mapping[str, Accepted]) -> Fallen | None:
    """Which role's metadata is older than what was accepted before; None for none.

    A role's floor counts as long as its keys are the same: after a rotation versions begin anew, which is how a repository recovers
    when somebody drove them up with stolen keys (TUF specification, 5.3.11). A root's floor always counts.
    """
    for role in sorted(floors, key=lambda each: each != ROOT):
        before, now = floors[role], seen.get(role)
        if now is not None and now.scope == before.scope and now.version < before.version:
            return Fallen(role, now.version, before.version)
    return None


def state_of(*, pinned: bool, error: TidelineError | None, expires_at: float | None, now: float) -> TrustState:
    """How things stand after the newest attempt, which ended in `error`; `expires_at` of what is held, None for nothing."""
    if not pinned:
        return TrustState.UNPINNED
    if error is not None and not isinstance(error, Transient) and error.code != EXPIRED:
        return TrustState.REFUSED
    if isinstance(error, Corrupt) or (expires_at is not None and now >= expires_at):
        return TrustState.STALE
    return TrustState.FRESH if error is None and expires_at is not None else TrustState.OFFLINE
