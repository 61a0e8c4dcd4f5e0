"""TUF metadata as values: made, read, signed and held against each other. Knows neither clock nor storage."""

import copy
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import msgspec
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Role, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from shared.protocol.errors import Refusal, Refused
from shared.protocol.trust import ROLES, ROOT, TARGETS

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)
DAY_S = 86400.0
HASH = "sha256"


class Lifetimes(NamedTuple):
    """Seconds metadata is good for from its signing; what is signed online is signed anew when half of it is over."""

    root: float = 365 * DAY_S
    targets: float = 90 * DAY_S
    snapshot: float = 7 * DAY_S
    timestamp: float = DAY_S

    def of(self, role: str) -> float:
        """That of `role`."""
        return float(self._asdict()[role])


class Wanted(msgspec.Struct, frozen=True, order=True):
    """A target: the path of a version, the size of its manifest in bytes, the manifest's SHA-256."""

    path: str
    length: int
    digest: str


def first_root(keys: Mapping[str, Key], *, expires_at: float) -> Root:
    """The root a repository begins with: one key for each role."""
    roles = {role: Role([keys[role].keyid], 1) for role in ROLES}
    return Root(expires=when(expires_at), keys={key.keyid: key for key in keys.values()}, roles=roles)


def next_root(root: Root, replaced: Mapping[str, Key], *, expires_at: float) -> Root:
    """The successor of `root` in which these roles have one new key each."""
    # A copy all the way down: `to_dict` shares its lists with the root, and the old keys must still be there to sign.
    made = Root.from_dict(copy.deepcopy(root.to_dict()))
    made.version, made.expires = root.version + 1, when(expires_at)
    for role, key in replaced.items():
        for old in list(made.roles[role].keyids):
            made.revoke_key(old, role)
        made.add_key(key, role)
        made.roles[role].threshold = 1
    return made


def targets_of(wanted: Iterable[Wanted], *, version: int, expires_at: float) -> Targets:
    """Targets metadata that names exactly these."""
    files = {one.path: TargetFile(one.length, {HASH: one.digest}, one.path) for one in wanted}
    return Targets(version=version, expires=when(expires_at), targets=files)


def named_in(targets: Targets) -> frozenset[Wanted]:
    """What targets metadata names."""
    return frozenset(Wanted(path, file.length, file.hashes.get(HASH, "")) for path, file in targets.targets.items())


def signed(value: S, signers: Iterable[CryptoSigner]) -> Metadata[S]:
    """`value` with a signature of each signer."""
    made = Metadata(value)
    for signer in signers:
        made.sign(signer, append=True)
    return made


def meta_file(version: int, content: bytes) -> MetaFile:
    """How metadata is named in the metadata above it: with its length, so that nobody has to read more."""
    return MetaFile.from_data(version, content, [HASH])


def root_of(data: bytes, *, field: str = ROOT) -> Metadata[Root]:
    """Root metadata in `data`, whoever signed it; `Refused` where it is none, naming `field`."""
    return _parsed(data, Root, field)


def targets_in(data: bytes, *, field: str = TARGETS) -> Metadata[Targets]:
    """As `root_of`, for targets."""
    return _parsed(data, Targets, field)


def snapshot_in(data: bytes) -> Metadata[Snapshot]:
    """As `root_of`, for a snapshot."""
    return _parsed(data, Snapshot, "snapshot")


def timestamp_in(data: bytes) -> Metadata[Timestamp]:
    """As `root_of`, for a timestamp."""
    return _parsed(data, Timestamp, "timestamp")


def verifies(root: Root, role: str, metadata: Metadata[Any]) -> bool:
    """Whether enough keys that `root` names for `role` signed this."""
    return bool(root.get_verification_result(role, metadata.signed_bytes, metadata.signatures))


def when(at: float) -> datetime:
    """Unix seconds as TUF writes them, whole."""
    return datetime.fromtimestamp(int(at), UTC)


def _parsed(data: bytes, kind: type[S], field: str) -> Metadata[S]:
    try:
        found = Metadata[S].from_bytes(data)
    except (DeserializationError, RepositoryError) as error:
        raise Refused(f"not TUF metadata: {error}", kind=Refusal.UNPROCESSABLE, field=field) from error
    if not isinstance(found.signed, kind):
        raise Refused(
            "metadata of another role",
            kind=Refusal.UNPROCESSABLE,
            field=field,
            value=found.signed.type,
            allowed=kind.type,
        )
    return found
