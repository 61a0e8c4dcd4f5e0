"""The root that all trust in model versions follows from: pinned at enrolment, or once, later, by a device that is older than that.

A root that comes later is signed by the key that enrolment pinned for generations, so it does not matter who carries it.
"""

import asyncio
import hashlib
from pathlib import Path

import msgspec

from edge_agent.control.identity import Identity, save_identity
from edge_agent.control.trust_update import Fetch
from shared.io.clock import Clock
from shared.io.signing import verify
from shared.protocol.errors import Corrupt, Refused
from shared.protocol.topics import Path as Paths
from shared.protocol.trust import MAX_PIN, PIN, PIN_KIND, RootNotice, SignedRoot


class Pin:
    """Owner of the pinned root, which is kept with the identity."""

    def __init__(self, state: Path, identity: Identity, fetch: Fetch, *, clock: Clock) -> None:
        self._state = state
        self.identity = identity
        """With the root, once there is one."""
        self._fetch = fetch
        self._clock = clock

    async def root(self) -> bytes:
        """The pinned root; where there is none, the one the cloud says now, durable before it is returned.

        Raises:
            Refused: the cloud has none to give.
            Corrupt: what came is not signed by a pinned key, or not for this tenant.
            Transient: it cannot be asked now.

        """
        root = self.identity.own.tuf_root
        if root is None:
            root = self._checked(await self._fetch(Paths.TRUST.format(file=PIN), MAX_PIN))
            enrolment = msgspec.structs.replace(self.identity.own, tuf_root=root)
            identity = msgspec.structs.replace(self.identity, enrolment=enrolment, root_pinned_at=self._clock.wall())
            await asyncio.to_thread(save_identity, self._state, identity)
            self.identity = identity
        return root.encode()

    def _checked(self, data: bytes) -> str:
        own = self.identity.own
        try:
            signed = msgspec.json.decode(data, type=SignedRoot)
            verify(signed.payload.encode(), signature=signed.signature, key_id=signed.key_id, keys=own.keys)
            notice = msgspec.json.decode(signed.payload, type=RootNotice)
        except (msgspec.DecodeError, UnicodeDecodeError, Refused) as error:
            raise Corrupt(f"no root this device may pin: {error}", code="trust-refused") from error
        if (notice.kind, notice.tenant) != (PIN_KIND, own.tenant):
            raise Corrupt(f"a {notice.kind} of tenant {notice.tenant}", code="trust-refused")
        return notice.root


def digest_of(identity: Identity) -> str | None:
    """SHA-256 of the root an identity pins; None for none."""
    root = identity.own.tuf_root
    return None if root is None else hashlib.sha256(root.encode()).hexdigest()
