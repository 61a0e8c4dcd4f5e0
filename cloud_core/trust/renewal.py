"""What a tenant's metadata should be now, as a level: signed as far as the keys are here, the rest left as it is and said.

Nothing here stores or asks; the same call again, once what it made is stored, makes nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Role, Root, Snapshot, Timestamp

from cloud_core.trust.metadata import (
    Lifetimes,
    Wanted,
    meta_file,
    named_in,
    next_root,
    root_of,
    signed,
    snapshot_in,
    targets_in,
    targets_of,
    timestamp_in,
    verifies,
    when,
)
from shared.protocol.trust import ROOT, SNAPSHOT, TARGETS, TIMESTAMP

Signers = Callable[[Iterable[str]], list[CryptoSigner]]
"""Those of these keys that are here."""


class Made(NamedTuple):
    """New metadata, in the order to store it, by role: its version, bytes and expiry."""

    role: str
    version: int
    content: bytes
    expires_at: float


class Renewal:
    """One look at a tenant's metadata; `made` is what has to be stored."""

    def __init__(self, held: Mapping[str, bytes], *, signers: Signers, lifetimes: Lifetimes, now: float) -> None:
        """`held` is the newest metadata by role; of an initialised repository at least the root."""
        self.made: list[Made] = []
        self._held = dict(held)
        self._signers = signers
        self._lifetimes = lifetimes
        self._now = now

    def renew(self, wanted: Iterable[Wanted]) -> list[Made]:
        """Everything that has to be signed so that devices find `wanted`, and nothing that is about to expire."""
        root = self._root()
        targets = self._targets(root, frozenset(wanted))
        if targets is not None:
            self._snapshot(root, targets)
            self._timestamp(root)
        return self.made

    def _root(self) -> Root:
        root = root_of(self._held[ROOT]).signed
        if self._is_old(ROOT, root.expires.timestamp()) and self._may_sign(root, ROOT):
            successor = next_root(root, {}, expires_at=self._expiry(ROOT))
            self._keep(ROOT, signed(successor, self._signers(root.roles[ROOT].keyids)))
            return successor
        return root

    def _targets(self, root: Root, wanted: frozenset[Wanted]) -> bytes | None:
        held = self._held.get(TARGETS)
        metadata = None if held is None else targets_in(held)
        stands = metadata is not None and verifies(root, TARGETS, metadata)
        is_news = (
            metadata is None
            or not stands
            or named_in(metadata.signed) != wanted
            or self._is_old(TARGETS, metadata.signed.expires.timestamp())
        )
        if is_news and self._may_sign(root, TARGETS):
            version = 1 if metadata is None else metadata.signed.version + 1
            made = targets_of(sorted(wanted), version=version, expires_at=self._expiry(TARGETS))
            return self._keep(TARGETS, signed(made, self._signers(root.roles[TARGETS].keyids)))
        return held if stands else None

    def _snapshot(self, root: Root, targets: bytes) -> None:
        held = self._held.get(SNAPSHOT)
        metadata = None if held is None else snapshot_in(held)
        meta = meta_file(targets_in(targets).signed.version, targets)
        if (
            metadata is not None
            and verifies(root, SNAPSHOT, metadata)
            and metadata.signed.meta == {"targets.json": meta}
            and not self._is_old(SNAPSHOT, metadata.signed.expires.timestamp())
        ):
            return
        if self._may_sign(root, SNAPSHOT):
            version = 1 if metadata is None else metadata.signed.version + 1
            made = Snapshot(version=version, expires=when(self._expiry(SNAPSHOT)), meta={"targets.json": meta})
            self._keep(SNAPSHOT, signed(made, self._signers(root.roles[SNAPSHOT].keyids)))

    def _timestamp(self, root: Root) -> None:
        snapshot, held = self._held.get(SNAPSHOT), self._held.get(TIMESTAMP)
        if snapshot is None:
            return
        metadata = None if held is None else timestamp_in(held)
        meta = meta_file(snapshot_in(snapshot).signed.version, snapshot)
        if (
            metadata is not None
            and verifies(root, TIMESTAMP, metadata)
            and metadata.signed.snapshot_meta == meta
            and not self._is_old(TIMESTAMP, metadata.signed.expires.timestamp())
        ):
            return
        if self._may_sign(root, TIMESTAMP):
            version = 1 if metadata is None else metadata.signed.version + 1
            made = Timestamp(version=version, expires=when(self._expiry(TIMESTAMP)), snapshot_meta=meta)
            self._keep(TIMESTAMP, signed(made, self._signers(root.roles[TIMESTAMP].keyids)))

    def _is_old(self, role: str, expires_at: float) -> bool:
        return self._now >= expires_at - self._lifetimes.of(role) / 2

    def _expiry(self, role: str) -> float:
        return self._now + self._lifetimes.of(role)

    def _may_sign(self, root: Root, role: str) -> bool:
        return may_sign(root.roles[role], self._signers)

    def _keep(self, role: str, metadata: Metadata[Any]) -> bytes:
        content = metadata.to_bytes()
        value = metadata.signed
        self._held[role] = content
        self.made.append(Made(role, value.version, content, value.expires.timestamp()))
        return content


def may_sign(role: Role, signers: Signers) -> bool:
    """Whether enough of a role's keys are here."""
    return len(signers(role.keyids)) >= role.threshold
