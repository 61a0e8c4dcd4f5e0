"""Signed generations for tests."""

import msgspec

from shared.io.signing import Signer
from shared.protocol.desired import Generation, Limits, ModelRef, SignedGeneration
from shared.protocol.policy import Policy

SIGNER = Signer.from_bytes(b"k" * 32)


def generation(number=1, *models, epoch=1, policy=None, tenant="default", device="edge-1", limits=None, expires_at=2e9):
    return Generation(
        tenant=tenant,
        device=device,
        epoch=epoch,
        number=number,
        issued_at=0.0,
        expires_at=expires_at,
        models=models,
        policy=policy or Policy(),
        limits=limits or Limits(),
    )


def signed(of, signer=SIGNER):
    payload = msgspec.json.encode(of)
    return SignedGeneration(key_id=signer.key_id, signature=signer.sign(payload), payload=payload.decode())


def ref(digest, name="sentiment-zh", version="1.0.0", variant=None):
    return ModelRef(name=name, version=version, digest=digest, variant=variant)
