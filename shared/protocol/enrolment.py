"""What `/device/v1/enrol` and `/device/v1/token` exchange.

The one-time token pins, in one answer, the keys that sign generations, the TUF root, and where the broker and the gateway are.
"""

import msgspec

from shared.protocol.reported import Hardware


class EnrolRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`public_key` is the device's own Ed25519 key, base64 of its 32 raw bytes; it signs requests for access tokens."""

    token: str
    public_key: str
    hardware: Hardware
    agent_version: str


class PinnedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that signs generations and commands: base64 of the 32 raw bytes of an Ed25519 public key."""

    key_id: str
    public_key: str


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """Where and as whom the device speaks MQTT; the client id equals the username."""

    host: str
    port: int
    username: str
    password: str
    tls: bool = False


class EnrolAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a device keeps from its enrolment."""

    tenant: str
    device: str
    keys: tuple[PinnedKey, ...]
    tuf_root: str | None
    broker: Broker
    api_url: str
    gateway_url: str


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Proof of the device's key: `signature` is base64 Ed25519 over `f"{tenant}/{device}/{at}"`, `at` Unix seconds."""

    tenant: str
    device: str
    at: int
    signature: str


class TokenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A short-lived bearer token for the gateway and the device API."""

    token: str
    expires_at: float
