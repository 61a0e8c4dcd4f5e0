"""Ed25519 signatures over the exact bytes that travel (RFC 8032): generations, commands, device tokens."""

import base64
import binascii
import hashlib
from collections.abc import Iterable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.protocol.enrolment import PinnedKey
from shared.protocol.errors import Refusal, Refused


class Signer:
    """A private key and its id: the first 16 hexadecimal characters of the SHA-256 of the public key."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        raw = private.public_key().public_bytes_raw()
        self.key_id = hashlib.sha256(raw).hexdigest()[:16]
        self.public_key = base64.b64encode(raw).decode()

    @classmethod
    def generate(cls) -> "Signer":
        """A new key from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, seed: bytes) -> "Signer":
        """The key whose 32 raw private bytes are `seed`."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def to_bytes(self) -> bytes:
        """The 32 raw private bytes, for a file with mode 0600."""
        return self._private.private_bytes_raw()

    def sign(self, data: bytes) -> str:
        """Base64 of the signature over `data`."""
        return base64.b64encode(self._private.sign(data)).decode()

    @property
    def pinned(self) -> PinnedKey:
        """What a device pins."""
        return PinnedKey(key_id=self.key_id, public_key=self.public_key)


def verify(data: bytes, *, signature: str, key_id: str, keys: Iterable[PinnedKey]) -> None:
    """Check `signature` over `data` against the pinned key `key_id`.

    Raises:
        Refused: an unknown key, or a signature that is not this key's over these bytes.

    """
    pinned = {key.key_id: key for key in keys}
    if key_id not in pinned:
        raise Refused(
            "signed by a key that is not pinned",
            kind=Refusal.FORBIDDEN,
            field="key_id",
            value=key_id,
            allowed=", ".join(sorted(pinned)) or "no key",
        )
    try:
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(pinned[key_id].public_key, validate=True))
        public.verify(base64.b64decode(signature, validate=True), data)
    except (InvalidSignature, binascii.Error, ValueError) as error:
        raise Refused("the signature does not match", kind=Refusal.FORBIDDEN, field="signature") from error
