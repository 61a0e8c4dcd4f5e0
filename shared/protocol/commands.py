"""Signed orders to one device, each with an id and an expiry; what they ask for is always safe to repeat."""

from enum import StrEnum

import msgspec

KIND = "command"
RESULT = "command-result"


class Verb(StrEnum):
    """What a device can be asked for; `report` is how the cloud repairs a gap."""

    REPORT = "report"
    DRAIN = "drain"
    SNAPSHOT = "snapshot"
    COLLECT_LOGS = "collect-logs"


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """The payload that is signed. Times are Unix seconds."""

    id: str
    tenant: str
    device: str
    verb: Verb
    issued_at: float
    expires_at: float


class SignedCommand(msgspec.Struct, frozen=True, kw_only=True):
    """`payload` is the JSON text of a Command; `signature` is base64 Ed25519 over its UTF-8 bytes by key `key_id`."""

    key_id: str
    signature: str
    payload: str


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a command."""

    id: str
    ok: bool
    detail: str = ""
