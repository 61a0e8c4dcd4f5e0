"""Private keys of TUF roles in a folder: a file per key, named by its id, mode 0600. On a server, and where somebody signs offline.

Invariant: a key is durable before anybody relies on it.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from shared.io.durable import folder_of, sync_folder, write_durably
from shared.protocol.errors import Corrupt

_ID = re.compile(r"[0-9a-f]{64}")


class KeyFolder:
    """The keys of one tenant."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def make(self) -> CryptoSigner:
        """A new Ed25519 key.

        Raises:
            Refused: the folder cannot be made.

        """
        folder_of("keys", self._path, mode=0o700)
        signer = CryptoSigner.generate_ed25519()
        write_durably(self._file(signer.public_key.keyid), signer.private_bytes, mode=0o600)
        return signer

    def held(self, key_ids: Iterable[str]) -> list[CryptoSigner]:
        """Those of these keys that are here.

        Raises:
            Corrupt: a file is there and holds no key, or another one.

        """
        # Ids come from metadata, which others may have written: nothing but an id becomes part of a path.
        present = (key_id for key_id in key_ids if _ID.fullmatch(key_id) and self._file(key_id).is_file())
        return [self._read(key_id) for key_id in present]

    def forget(self, key_ids: Iterable[str]) -> list[str]:
        """Remove those of these keys that are here; their ids."""
        gone = [key_id for key_id in key_ids if _ID.fullmatch(key_id) and self._file(key_id).is_file()]
        for key_id in gone:
            self._file(key_id).unlink()
        if gone:
            sync_folder(self._path)
        return gone

    def _file(self, key_id: str) -> Path:
        return self._path / f"{key_id}.pem"

    def _read(self, key_id: str) -> CryptoSigner:
        path = self._file(key_id)
        try:
            private = load_pem_private_key(path.read_bytes(), password=None)
        except ValueError as error:
            raise Corrupt(f"{path} is no private key: {error}") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise Corrupt(f"{path} is no Ed25519 key")
        signer = CryptoSigner(private)
        if signer.public_key.keyid != key_id:
            raise Corrupt(f"{path} is the key {signer.public_key.keyid}")
        return signer
