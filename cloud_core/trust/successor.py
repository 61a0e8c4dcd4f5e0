"""May metadata that somebody uploads follow what is there? The rules of TUF's client workflow, applied before a device has to."""

from collections.abc import Iterable
from typing import Any

from tuf.api.metadata import Metadata, Root, Targets

from cloud_core.trust.metadata import HASH, root_of, targets_in, verifies
from cloud_core.trust.renewal import Signers, may_sign
from shared.protocol.errors import Refusal, Refused
from shared.protocol.trust import ROLES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP


def root(data: bytes, current: Root, *, signers: Signers, now: float) -> Metadata[Root]:
    """The root in `data`, with the present root's signature added where its keys are here.

    Raises:
        Refused: it does not follow `current`, or leaves this place unable to sign what it must.

    """
    given = root_of(data)
    value = given.signed
    _check_version(ROOT, value.version, current.version + 1)
    _check_fresh(ROOT, given, now)
    if value.consistent_snapshot is not True:
        raise _unfit("root.consistent_snapshot", value.consistent_snapshot, "true")
    for role in ROLES:
        if not value.roles[role].keyids:
            raise _unfit(f"root.roles.{role}", "no key", "a key for each role")
    for role in (SNAPSHOT, TIMESTAMP):
        if not may_sign(value.roles[role], signers):
            raise _unfit(f"root.roles.{role}", _ids(value.roles[role].keyids), "keys this control plane holds")
    if not verifies(value, ROOT, given):
        raise _unfit("root.signatures", _ids(given.signatures), "those of the new root keys")
    for signer in signers(current.roles[ROOT].keyids):
        given.sign(signer, append=True)
    if not verifies(current, ROOT, given):
        raise _unfit("root.signatures", _ids(given.signatures), "those of the present root keys too")
    return given


def targets(data: bytes, root: Root, *, above: int, now: float) -> Metadata[Targets]:
    """The targets in `data`, which follow version `above`.

    Raises:
        Refused: they do not, or are not signed as `root` wants.

    """
    given = targets_in(data)
    _check_version(TARGETS, given.signed.version, above + 1)
    _check_fresh(TARGETS, given, now)
    if given.signed.delegations is not None:
        raise _unfit("targets.delegations", "delegations", "none: every target is signed by the targets role itself")
    for path, file in given.signed.targets.items():
        if HASH not in file.hashes:
            raise _unfit(f"targets.targets.{path}.hashes", _ids(file.hashes), HASH)
    if not verifies(root, TARGETS, given):
        raise _unfit("targets.signatures", _ids(given.signatures), "those of the root's targets keys")
    return given


def check_still_signed(held: Metadata[Targets] | None, root: Root, *, signers: Signers) -> None:
    """Refuse a root under which the present targets would not verify, and nobody here could sign others."""
    if held is not None and not verifies(root, TARGETS, held) and not may_sign(root.roles[TARGETS], signers):
        raise _unfit(
            "root.roles.targets", _ids(root.roles[TARGETS].keyids), "with targets signed by them, sent together"
        )


def _check_version(role: str, version: int, wanted: int) -> None:
    if version != wanted:
        raise Refused(
            "not the next version", kind=Refusal.CONFLICT, field=f"{role}.version", value=version, allowed=str(wanted)
        )


def _check_fresh(role: str, given: Metadata[Any], now: float) -> None:
    expires = given.signed.expires
    if expires.timestamp() <= now:
        raise _unfit(f"{role}.expires", expires.isoformat(), "a time to come")


def _unfit(field: str, value: object, allowed: str) -> Refused:
    return Refused("no valid successor", kind=Refusal.UNPROCESSABLE, field=field, value=value, allowed=allowed)


def _ids(ids: Iterable[str]) -> str:
    return ", ".join(one[:16] for one in ids) or "none"
