"""What `/api/v1/trust` and whoever signs elsewhere exchange."""

from typing import Any

import msgspec

from cloud_core.trust.metadata import Wanted

NOTHING = msgspec.Raw(b"null")
"""Where there is no document. msgspec reads no `Raw | None`."""


def _nothing() -> msgspec.Raw:
    return NOTHING  # from a factory, because what describes the API cannot write one down


def given(document: msgspec.Raw) -> bytes | None:
    """A document's bytes; None for nothing."""
    data = bytes(document)
    return None if data == b"null" else data


class RoleView(msgspec.Struct, frozen=True, kw_only=True):
    """One role: its newest metadata, the ids of its keys, and whether enough of them are held by the control plane."""

    version: int | None
    expires_at: float | None
    keys: tuple[str, ...]
    threshold: int
    held: bool


class TrustView(msgspec.Struct, frozen=True, kw_only=True):
    """A repository. `unsigned` are versions that no signed targets name yet: devices wait with them."""

    roles: dict[str, RoleView]
    targets: int
    unsigned: tuple[str, ...]


class Documents(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody who signs elsewhere works from; `wanted` is what targets should name."""

    root: msgspec.Raw
    targets: msgspec.Raw = msgspec.field(default_factory=_nothing)
    wanted: tuple[Wanted, ...]


class Roles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Some roles."""

    roles: tuple[str, ...]


class Upload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Signed metadata, taken together or not at all."""

    root: msgspec.Raw = msgspec.field(default_factory=_nothing)
    targets: msgspec.Raw = msgspec.field(default_factory=_nothing)


class PublicKeys(msgspec.Struct, frozen=True, kw_only=True):
    """Public keys by role, as TUF's root writes them, with their ids."""

    keys: dict[str, dict[str, Any]]
    ids: dict[str, str]
