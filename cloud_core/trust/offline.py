"""Signing where the control plane is not: what a laptop with a folder of keys makes of what the control plane says.

Nothing here asks or stores but the folder of keys; the control plane checks what comes out as if a stranger had made it.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from securesystemslib.signer import Key
from tuf.api.metadata import Root

from cloud_core.trust.keys import KeyFolder
from cloud_core.trust.metadata import Wanted, next_root, root_of, signed, targets_in, targets_of
from shared.protocol.errors import Refusal, Refused
from shared.protocol.trust import ROOT, TARGETS


class Held(NamedTuple):
    """What is in force, as the control plane says it, and what targets should name."""

    root: bytes
    targets: bytes | None
    wanted: frozenset[Wanted]


class Signed(NamedTuple):
    """What to send back; None for what stays."""

    root: bytes | None
    targets: bytes | None


class Expiry(NamedTuple):
    """Unix seconds at which what is signed now ends."""

    root: float
    targets: float


def rotated(held: Held, keys: KeyFolder, roles: Iterable[str], online: Mapping[str, Key], expiry: Expiry) -> Signed:
    """A root with new keys: of `root` and `targets`, where named in `roles`, made in the folder; of the others as in `online`.

    Signed with the new root key, and the old one where the folder has it.
    """
    before = root_of(held.root).signed
    fresh: dict[str, Key] = {role: keys.make().public_key for role in (ROOT, TARGETS) if role in roles}
    root = next_root(before, {**online, **fresh}, expires_at=expiry.root)
    signers = keys.held(dict.fromkeys([*before.roles[ROOT].keyids, *root.roles[ROOT].keyids]))
    made = signed(root, signers).to_bytes()
    if TARGETS not in fresh:
        return Signed(made, None)
    return Signed(made, _targets(held, root, keys, expiry))


def signed_targets(held: Held, keys: KeyFolder, expiry: Expiry) -> Signed:
    """Targets that name what should be named, under the root that is in force.

    Raises:
        Refused: the folder has not the keys.

    """
    return Signed(None, _targets(held, root_of(held.root).signed, keys, expiry))


def _targets(held: Held, root: Root, keys: KeyFolder, expiry: Expiry) -> bytes:
    role = root.roles[TARGETS]
    signers = keys.held(role.keyids)
    if len(signers) < role.threshold:
        ids = ", ".join(key_id[:16] for key_id in role.keyids)
        raise Refused("the targets' keys are not in this folder", kind=Refusal.CONFLICT, field="--keys", allowed=ids)
    version = 0 if held.targets is None else targets_in(held.targets).signed.version
    made = targets_of(sorted(held.wanted), version=version + 1, expires_at=expiry.targets)
    return signed(made, signers).to_bytes()
