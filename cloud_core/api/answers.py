"""Answers kept for repeated requests: sealed, so that a secret that is shown once never lies readable in the database."""

import base64

import msgspec
from aiohttp import hdrs, web
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.io.signing import Signer
from shared.protocol.errors import Corrupt

_KEPT = (hdrs.CONTENT_TYPE, hdrs.ETAG, hdrs.LOCATION, hdrs.CACHE_CONTROL)


class _Kept(msgspec.Struct, frozen=True):
    headers: dict[str, str]
    body: bytes


class Answers:
    """Seals and opens answers with a key derived from the control plane's own secret."""

    def __init__(self, signer: Signer) -> None:
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"tideline idempotent answers")
        self._fernet = Fernet(base64.urlsafe_b64encode(derived.derive(signer.to_bytes())))

    def seal(self, response: web.Response) -> str:
        """Text for the database."""
        headers = {str(name): response.headers[name] for name in _KEPT if name in response.headers}
        body = response.body if isinstance(response.body, bytes) else b""
        return self._fernet.encrypt(msgspec.json.encode(_Kept(headers, body))).decode()

    def open(self, kept: str, *, status: int) -> web.Response:
        """The answer, as it was given.

        Raises:
            Corrupt: sealed with another key.

        """
        try:
            answer = msgspec.json.decode(self._fernet.decrypt(kept.encode()), type=_Kept)
        except InvalidToken as error:
            raise Corrupt("a kept answer cannot be opened: was the access key replaced?") from error
        return web.Response(status=status, headers=answer.headers, body=answer.body or None)
