"""Each tenant's TUF repository: one owner of its metadata, which lives in the registry, and of the keys that are here.

Invariants:

* tenants share neither keys nor metadata; keys are files of the data folder, metadata rows of the tenant;
* metadata is only ever followed by a valid successor, whether it was signed here or elsewhere;
* where the targets' key is here, a version that is published over the API is signed in the same transaction.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from securesystemslib.signer import Key

from cloud_core.store import trust
from cloud_core.store.database import Connection
from cloud_core.store.trust import Stored
from cloud_core.trust import successor
from cloud_core.trust.keys import KeyFolder
from cloud_core.trust.metadata import Lifetimes, Wanted, first_root, named_in, next_root, root_of, signed, targets_in
from cloud_core.trust.renewal import Made, Renewal, may_sign
from shared.io.signing import Signer
from shared.protocol.errors import Refusal, Refused
from shared.protocol.trust import (
    PIN,
    PIN_KIND,
    ROLES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    RootNotice,
    SignedRoot,
    role_and_version,
    target_path,
)

ONLINE = (SNAPSHOT, TIMESTAMP)
"""Signed here always: devices would find no new version without."""


class Standing(NamedTuple):
    """A tenant's repository: the newest files, for which roles it can sign, and what should be a target."""

    files: Mapping[str, Stored]
    held: frozenset[str]
    wanted: frozenset[Wanted]

    @property
    def unsigned(self) -> list[str]:
        """Versions that devices do not install yet, because no signed targets name them."""
        stored = self.files.get(TARGETS)
        named = frozenset[Wanted]() if stored is None else named_in(targets_in(stored.content.encode()).signed)
        return sorted(one.path for one in self.wanted - named)


class Repository:
    """All tenants' repositories."""

    def __init__(self, folder: Path, pinned: Signer, lifetimes: Lifetimes | None = None) -> None:
        """`folder` holds a folder of keys for each tenant; `pinned` is the key that every device knows from its enrolment."""
        self._folder = folder
        self._pinned = pinned
        self._lifetimes = lifetimes or Lifetimes()

    async def keep(self, connection: Connection, tenant: str, *, now: float) -> bool:
        """Make the metadata what it should be: made, complete, and not about to expire. False where there was nothing to do.

        Needs a write transaction.
        """
        await trust.take_turn(connection, tenant)
        files = await trust.newest(connection, tenant)
        began = not files
        if began:
            made = await asyncio.to_thread(self._first, tenant, now)
            await self._store(connection, tenant, [made], now=now)
        made_now = await self._renewed(connection, tenant, now=now)
        await self._store(connection, tenant, made_now, now=now)
        return began or bool(made_now)

    async def is_due(self, connection: Connection, tenant: str, *, now: float) -> bool:
        """Whether `keep` would do something."""
        files = await trust.newest(connection, tenant)
        return not files or bool(await self._renewed(connection, tenant, now=now))

    async def standing(self, connection: Connection, tenant: str) -> Standing:
        """How the repository stands.

        Raises:
            Refused: there is none yet.

        """
        files = await trust.newest(connection, tenant)
        if ROOT not in files:
            raise Refused("there is no repository yet", kind=Refusal.NOT_FOUND, field="trust", value=tenant)
        root = root_of(files[ROOT].content.encode()).signed
        held = await asyncio.to_thread(
            lambda: frozenset(role for role in ROLES if may_sign(root.roles[role], self._keys(tenant).held))
        )
        return Standing(files, held, await self._wanted(connection, tenant))

    async def root(self, connection: Connection, tenant: str, *, now: float) -> str:
        """The newest root, for a device to pin; the repository is made where there is none. Needs a write transaction."""
        await self.keep(connection, tenant, now=now)
        return (await trust.newest(connection, tenant))[ROOT].content

    async def file(self, connection: Connection, tenant: str, name: str) -> bytes | None:
        """What a device of `tenant` gets for the metadata file `name`; None where there is no such file."""
        if name == PIN:
            root = await trust.get(connection, tenant, ROOT, None)
            return None if root is None else self._notice(tenant, root.content)
        asked = role_and_version(name)
        if asked is None:
            return None
        stored = await trust.get(connection, tenant, *asked)
        return None if stored is None else stored.content.encode()

    async def rotate(self, connection: Connection, tenant: str, roles: Sequence[str], *, now: float) -> None:
        """A new key for each of `roles`, and everything signed with it. Needs a write transaction.

        Raises:
            Refused: a key that must sign this is not here.

        """
        standing = await self._current(connection, tenant, now=now)
        for role in (ROOT, *({TARGETS} & set(roles))):
            if role not in standing.held:
                raise Refused(
                    f"the key of {role} is not here",
                    kind=Refusal.CONFLICT,
                    field="roles",
                    value=", ".join(roles),
                    allowed="rotation where its key is: fleetctl trust rotate --keys FOLDER",
                    code="offline-key",
                )
        root = root_of(standing.files[ROOT].content.encode()).signed

        def work() -> Made:
            keys = self._keys(tenant)
            fresh: dict[str, Key] = {role: keys.make().public_key for role in dict.fromkeys(roles)}
            made = next_root(root, fresh, expires_at=now + self._lifetimes.root)
            signers = keys.held({*root.roles[ROOT].keyids, *made.roles[ROOT].keyids})
            return _made(ROOT, made.version, signed(made, signers).to_bytes(), made.expires.timestamp())

        await self._store(connection, tenant, [await asyncio.to_thread(work)], now=now)
        await self.keep(connection, tenant, now=now)

    async def online_keys(self, tenant: str, roles: Sequence[str]) -> dict[str, Key]:
        """New keys of roles that are signed here, for a root that is signed elsewhere."""
        return await asyncio.to_thread(lambda: {role: self._keys(tenant).make().public_key for role in roles})

    async def accept(
        self, connection: Connection, tenant: str, *, root: bytes | None, targets: bytes | None, now: float
    ) -> None:
        """Take metadata that was signed elsewhere, and sign what follows from it here. Needs a write transaction.

        A root of which the present root's key is here is signed with it too: that is how the keys leave this place.

        Raises:
            Refused: it is no valid successor; says why.

        """
        standing = await self._current(connection, tenant, now=now)
        keys = self._keys(tenant)
        made: list[Made] = []
        current = root_of(standing.files[ROOT].content.encode())
        if root is not None:
            given = await asyncio.to_thread(successor.root, root, current.signed, signers=keys.held, now=now)
            made.append(_made(ROOT, given.signed.version, given.to_bytes(), given.signed.expires.timestamp()))
            current = given
        stored = standing.files.get(TARGETS)
        before = None if stored is None else targets_in(stored.content.encode())
        if targets is not None:
            version = 0 if before is None else before.signed.version
            next_targets = successor.targets(targets, current.signed, above=version, now=now)
            value = next_targets.signed
            made.append(_made(TARGETS, value.version, next_targets.to_bytes(), value.expires.timestamp()))
        elif root is not None:
            successor.check_still_signed(before, current.signed, signers=keys.held)
        await self._store(connection, tenant, made, now=now)
        await self.keep(connection, tenant, now=now)

    async def tidy(self, connection: Connection, tenant: str) -> list[str]:
        """Remove keys that only roots of the past name: what was rotated away or went offline. Their ids."""
        every = [root_of(stored.content.encode()).signed for stored in await trust.roots(connection, tenant)]
        if not every:
            return []
        past = {key_id for root in every[:-1] for key_id in root.keys} - set(every[-1].keys)
        return await asyncio.to_thread(self._keys(tenant).forget, sorted(past))

    async def _current(self, connection: Connection, tenant: str, *, now: float) -> Standing:
        await self.keep(connection, tenant, now=now)
        return await self.standing(connection, tenant)

    async def _renewed(self, connection: Connection, tenant: str, *, now: float) -> list[Made]:
        held = {role: stored.content.encode() for role, stored in (await trust.newest(connection, tenant)).items()}
        wanted = await self._wanted(connection, tenant)
        renewal = Renewal(held, signers=self._keys(tenant).held, lifetimes=self._lifetimes, now=now)
        return await asyncio.to_thread(renewal.renew, wanted)

    async def _wanted(self, connection: Connection, tenant: str) -> frozenset[Wanted]:
        rows = await trust.manifests(connection, tenant)
        return frozenset(Wanted(target_path(row.model, row.version), row.length, row.digest) for row in rows)

    async def _store(self, connection: Connection, tenant: str, made: Sequence[Made], *, now: float) -> None:
        for one in made:
            await trust.add(
                connection,
                tenant,
                role=one.role,
                version=one.version,
                content=one.content.decode(),
                expires_at=one.expires_at,
                now=now,
            )

    def _first(self, tenant: str, now: float) -> Made:
        keys = self._keys(tenant)
        signers = {role: keys.make() for role in ROLES}
        public: dict[str, Key] = {role: signer.public_key for role, signer in signers.items()}
        root = first_root(public, expires_at=now + self._lifetimes.root)
        return _made(ROOT, root.version, signed(root, [signers[ROOT]]).to_bytes(), root.expires.timestamp())

    def _notice(self, tenant: str, root: str) -> bytes:
        payload = msgspec.json.encode(RootNotice(kind=PIN_KIND, tenant=tenant, root=root))
        signature = self._pinned.sign(payload)
        return msgspec.json.encode(
            SignedRoot(key_id=self._pinned.key_id, signature=signature, payload=payload.decode())
        )

    def _keys(self, tenant: str) -> KeyFolder:
        return KeyFolder(self._folder / tenant)


def _made(role: str, version: int, content: bytes, expires_at: float) -> Made:
    return Made(role, version, content, expires_at)
