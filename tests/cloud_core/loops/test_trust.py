"""The trust loop: metadata is signed anew in time, on both databases; what it cannot sign is an alarm, once, and stops nothing."""

import asyncio
import time
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from securesystemslib.signer import Key
from tuf.api.metadata import Root

from cloud_core.loops.trust import TrustLoop
from cloud_core.store import events, models, tenants, versions
from cloud_core.store.database import migrate, open_database, read, write
from cloud_core.trust.keys import KeyFolder
from cloud_core.trust.metadata import DAY_S, next_root, root_of
from cloud_core.trust.offline import Expiry, Held, rotated
from cloud_core.trust.repository import Repository, Standing
from shared.io.clock import SystemClock
from shared.io.signing import Signer
from shared.protocol.trust import ROLES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP

LOG = structlog.wrap_logger(structlog.PrintLogger(), processors=[structlog.processors.KeyValueRenderer()])


class Shifted(SystemClock):
    """The wall is `by` seconds ahead."""

    by = 0.0

    def wall(self) -> float:
        return super().wall() + self.by


class Scene:
    """A loop over a registry with two tenants, one of which published a version."""

    def __init__(self, url: str, folder: Path) -> None:
        self.engine = open_database(url)
        self.folder = folder
        self.repository = Repository(folder / "keys", Signer.generate())
        self.clock, self.registry = Shifted(), CollectorRegistry()
        self.loop = TrustLoop(self.engine, self.repository, registry=self.registry, clock=self.clock, log=LOG)

    async def begin(self) -> None:
        async with write(self.engine) as connection:
            for tenant in ("a", "b"):
                await tenants.create(connection, tenant, now=time.time())
            await models.create(connection, "a", "m", description="", now=time.time())
            await versions.publish(
                connection, "a", model="m", version="1.0.0", digest="a" * 64, manifest='{"标": 1}', published_by="test",
                now=time.time(),
            )  # fmt: skip

    async def standing(self, tenant: str = "a") -> Standing:
        async with read(self.engine) as connection:
            return await self.repository.standing(connection, tenant)

    async def versions(self) -> dict[str, int]:
        return {role: stored.version for role, stored in (await self.standing()).files.items()}

    async def told(self) -> list[tuple[str, str, str]]:
        async with read(self.engine) as connection:
            found = await events.after(connection, 0)
        return [(event.tenant, event.kind, event.name) for event in found if event.resource == "trust"]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def _told(url: str, folder: Path, story: Any) -> None:
    async def run() -> None:
        scene = Scene(url, folder)
        try:
            await scene.begin()
            await story(scene)
        finally:
            await scene.engine.dispose()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_it_signs_in_time_and_nothing_without_need(database_url: str, tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.loop.look()
        first = await scene.versions()
        assert first == dict.fromkeys(ROLES, 1)
        (wanted,) = (await scene.standing()).wanted
        assert (wanted.path, wanted.length) == ("m/1.0.0", len('{"标": 1}'.encode()))
        await scene.loop.look()
        assert await scene.versions() == first
        for days, changed in ((0.6, {TIMESTAMP}), (4, {TIMESTAMP, SNAPSHOT}), (50, {TIMESTAMP, SNAPSHOT, TARGETS})):
            before = await scene.versions()
            scene.clock.by = days * DAY_S
            await scene.loop.look()
            after = await scene.versions()
            assert {role for role in ROLES if after[role] != before[role]} == changed
        scene.clock.by = 200 * DAY_S
        await scene.loop.look()
        assert (await scene.versions())[ROOT] == 2
        assert (scene.metric("tideline_trust_expires_seconds", role=ROOT) or 0) > 300 * DAY_S
        assert await scene.told() == []
        keys = {tenant: {path.name for path in (tmp_path / "keys" / tenant).iterdir()} for tenant in ("a", "b")}
        assert len(keys["a"]) == len(keys["b"]) == 4
        assert not keys["a"] & keys["b"]

    _told(database_url, tmp_path, story)


def test_what_is_signed_elsewhere_is_an_alarm_in_time(sqlite_url: str, tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.loop.look()
        laptop, now = KeyFolder(tmp_path / "laptop"), time.time()
        files = (await scene.standing()).files
        held = Held(files[ROOT].content.encode(), files[TARGETS].content.encode(), (await scene.standing()).wanted)
        made = rotated(held, laptop, (ROOT, TARGETS), {}, Expiry(now + 365 * DAY_S, now + 90 * DAY_S))
        async with write(scene.engine) as connection:
            await scene.repository.accept(connection, "a", root=made.root, targets=made.targets, now=now)
        await scene.loop.look()
        assert len(list((tmp_path / "keys" / "a").iterdir())) == 2  # those of root and targets are gone from here
        assert await scene.told() == []
        for _ in range(2):  # said once
            scene.clock.by = 80 * DAY_S
            await scene.loop.look()
        assert await scene.told() == [("a", "expiring", TARGETS)]
        assert scene.metric("tideline_trust_alarms") == 1
        scene.clock.by = 100 * DAY_S  # expired: the rest is signed on all the same
        await scene.loop.look()
        standing = await scene.standing()
        assert standing.files[TIMESTAMP].expires_at > scene.clock.wall()
        assert (scene.metric("tideline_trust_expires_seconds", role=TARGETS) or 0) < 0

    _told(sqlite_url, tmp_path, story)


def test_a_version_that_waits_for_a_signature_is_counted(sqlite_url: str, tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.loop.look()
        gone = KeyFolder(tmp_path / "keys" / "a")
        root = root_of((await scene.standing()).files[ROOT].content.encode()).signed
        gone.forget(root.roles[TARGETS].keyids)
        async with write(scene.engine) as connection:
            await versions.publish(
                connection, "a", model="m", version="2.0.0", digest="b" * 64, manifest="{}", published_by="test",
                now=time.time(),
            )  # fmt: skip
        await scene.loop.look()
        assert (await scene.standing()).unsigned == ["m/2.0.0"]
        assert scene.metric("tideline_trust_unsigned") == 1

    _told(sqlite_url, tmp_path, story)


def test_a_damaged_key_of_one_tenant_is_an_alarm_and_leaves_the_others_alone(sqlite_url: str, tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.loop.look()
        for path in (tmp_path / "keys" / "a").iterdir():
            path.write_bytes(b"rot")
        scene.clock.by = 0.6 * DAY_S
        await scene.loop.look()
        assert scene.metric("tideline_trust_alarms") == 1
        assert (await scene.standing("b")).files[TIMESTAMP].version == 2

    _told(sqlite_url, tmp_path, story)


def test_a_registry_from_before_gets_its_repository(tmp_path: Path) -> None:
    """Every version it has becomes a target, at the first look."""

    async def story() -> None:
        url = f"sqlite+aiosqlite:///{tmp_path}/registry.db"
        await migrate(url, revision="0003")
        engine = open_database(url)
        async with write(engine) as connection:
            for statement in (
                "INSERT INTO tenants VALUES ('a', 1.0)",
                "INSERT INTO models (tenant, name, description, revision, created_at) VALUES ('a', 'm', '', 1, 1.0)",
                f"INSERT INTO versions VALUES ('a', 'm', '1.0.0', '{'c' * 64}', '{{}}', 'x', 1.0, NULL)",
            ):
                await connection.exec_driver_sql(statement)
        await engine.dispose()
        await migrate(url)
        scene = Scene(url, tmp_path)
        await scene.loop.look()
        standing = await scene.standing()
        assert standing.unsigned == []
        assert [one.path for one in standing.wanted] == ["m/1.0.0"]
        await scene.engine.dispose()

    asyncio.run(story())


def test_the_next_root_leaves_the_one_before_as_it_is() -> None:
    """`Root.to_dict` shares its lists: the old keys were missing among the signers of the root that replaced them."""
    from securesystemslib.signer import CryptoSigner

    from cloud_core.trust.metadata import first_root

    def keys() -> dict[str, Key]:
        return {role: CryptoSigner.generate_ed25519().public_key for role in ROLES}

    root = first_root(keys(), expires_at=4e9)
    before = root.to_dict().__repr__()
    made: Root = next_root(root, keys(), expires_at=4e9)
    assert root.to_dict().__repr__() == before
    assert made.version == 2
    assert not set(made.keys) & set(root.keys)
