"""Short-lived JWTs (RFC 7519) signed with Ed25519: what a login and a device's proof of its key are exchanged for.

Every claim is required, the algorithm is fixed, and issuer and audience are checked; anything else is refused with one answer.
"""

import secrets

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from cloud_core.decide.access import Principal, Role
from shared.io.signing import Signer

ISSUER = "tideline"
AUDIENCE = "tideline"
ALGORITHM = "Ed25519"
"""EdDSA with this curve by its full name (RFC 9864)."""
LEEWAY_S = 5
"""Clocks of the processes of one control plane may differ by this much."""


class AccessTokens:
    """Mints and verifies access tokens with one key."""

    def __init__(self, signer: Signer) -> None:
        self._key = OKPKey.import_key(Ed25519PrivateKey.from_private_bytes(signer.to_bytes()))

    def mint(self, principal: Principal, *, now: float, valid_s: float) -> tuple[str, float]:
        """A token for `principal`, and when it ends (Unix seconds)."""
        issued, expires = int(now), int(now + valid_s)
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": principal.name,
            "tenant": principal.tenant,
            "role": principal.role.value,
            "iat": issued,
            "exp": expires,
            "jti": secrets.token_hex(16),
        }
        return jwt.encode({"alg": ALGORITHM}, claims, self._key, algorithms=[ALGORITHM]), float(expires)

    def verify(self, token: str, *, now: float) -> Principal | None:
        """Whom the token speaks for; None for anything but a valid, unexpired token of ours."""
        registry = jwt.JWTClaimsRegistry(
            now=int(now),
            leeway=LEEWAY_S,
            iss={"essential": True, "value": ISSUER},
            aud={"essential": True, "value": AUDIENCE},
            sub={"essential": True},
            tenant={"essential": True},
            role={"essential": True, "values": [role.value for role in Role]},
            iat={"essential": True},
            exp={"essential": True},
            jti={"essential": True},
        )
        try:
            claims = jwt.decode(token, self._key, algorithms=[ALGORITHM]).claims
            registry.validate(claims)
        except (JoseError, ValueError, TypeError):
            # ValueError and TypeError: what the parser lets through of bytes that are no token at all.
            return None
        role = Role(claims["role"])
        return Principal(
            tenant=str(claims["tenant"]),
            name=str(claims["sub"]),
            role=role,
            kind="device" if role is Role.DEVICE else "user",
            expires_at=float(claims["exp"]),
        )
