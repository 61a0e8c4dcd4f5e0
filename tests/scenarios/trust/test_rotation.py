"""Keys that are replaced: how a repository recovers from stolen ones, and how devices follow, however long they were away."""

import sqlite3
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, MetaFile

from edge_agent.control.trust_pin import digest_of
from shared.protocol.errors import Corrupt, TidelineError
from shared.protocol.trust import ROLES, ROOT, SNAPSHOT, TIMESTAMP, TrustState
from tests.scenarios.trust.world import World, told

FAST = 2**31
BEYOND = 2**70
"""More than a database can keep."""


def test_fast_forward_is_recovered_from(sqlite_url: str, tmp_path: Path) -> None:
    """Whoever stole the online keys drives versions up; with new keys they begin anew."""

    async def story(world: World) -> None:
        one = await world.publish()
        device = await world.device()
        await device.client.check(one)
        device.between.replaced = _driven_up(world, await world.files(), FAST)
        await device.client.refresh()
        assert device.versions()[TIMESTAMP] == device.versions()[SNAPSHOT] == FAST
        device.between.replaced = {}
        with pytest.raises(Corrupt):
            await device.client.refresh()
        await world.rotated(SNAPSHOT, TIMESTAMP)
        for lost in (False, True):
            device = device.restarted(files_lost=lost)
            await device.client.refresh()
            assert device.versions()[TIMESTAMP] < FAST
            assert device.client.report().state is TrustState.FRESH

    told(sqlite_url, tmp_path, story)


def _driven_up(world: World, files: dict[str, bytes], to: int) -> dict[str, bytes]:
    root = Metadata.from_bytes(files["root.json"]).signed
    snapshot, timestamp = (Metadata.from_bytes(files[name]) for name in ("1.snapshot.json", "timestamp.json"))
    snapshot.signed.version = to
    for signer in world.keys().held(root.roles[SNAPSHOT].keyids):
        snapshot.sign(signer)
    data = snapshot.to_bytes()
    timestamp.signed.version = to
    timestamp.signed.snapshot_meta = MetaFile(to, len(data))
    for signer in world.keys().held(root.roles[TIMESTAMP].keyids):
        timestamp.sign(signer)
    return {f"{to}.snapshot.json": data, "timestamp.json": timestamp.to_bytes()}


def test_versions_beyond_all_bounds(sqlite_url: str, tmp_path: Path) -> None:
    """Are refused, and end nothing."""

    async def story(world: World) -> None:
        one = await world.publish()
        device = await world.device()
        await device.client.check(one)
        before = device.versions()
        device.between.replaced = _driven_up(world, await world.files(), BEYOND)
        with pytest.raises(Corrupt):
            await device.client.refresh()
        assert device.versions() == before
        await world.rotated(SNAPSHOT, TIMESTAMP)
        device.between.replaced = {}
        await device.client.refresh()

    told(sqlite_url, tmp_path, story)


def test_a_registry_restored_from_a_backup_is_believed_after_a_rotation(sqlite_url: str, tmp_path: Path) -> None:
    """Its versions went back, as in an attack; new keys of what is signed online say that it is none."""

    async def story(world: World) -> None:
        one = await world.publish()
        await world.device("another")
        saved = (tmp_path / "saved.db", tmp_path / "registry.db")
        with sqlite3.connect(saved[1]) as source, sqlite3.connect(saved[0]) as target:
            source.backup(target)
        for version in ("2.0.0", "3.0.0"):
            await world.publish(version)
        device = await world.device()
        await device.client.check(one)
        # What a device needs to be let in again; the rest is as it was.
        with sqlite3.connect(saved[0]) as backup, sqlite3.connect(saved[1]) as now:
            rows = backup.execute("SELECT * FROM trust_metadata").fetchall()
            now.execute("DELETE FROM trust_metadata")
            now.executemany(f"INSERT INTO trust_metadata VALUES ({', '.join('?' * len(rows[0]))})", rows)
        with pytest.raises(Corrupt):
            await device.client.refresh()
        await world.rotated(SNAPSHOT, TIMESTAMP)
        for lost in (False, True):
            device = device.restarted(files_lost=lost)
            await device.client.refresh()
            await device.client.check(one)

    told(sqlite_url, tmp_path, story)


def test_five_rotations_while_the_device_was_away(sqlite_url: str, tmp_path: Path) -> None:
    async def story(world: World) -> None:
        one = await world.publish()
        device = await world.device()
        await device.client.check(one)
        pinned = digest_of(device.identity)
        for _ in range(5):
            await world.rotated(*ROLES)
        two = await world.publish("2.0.0")
        device = device.restarted()
        await device.client.check(two)
        assert device.versions()[ROOT] == 6 == await world.root_version()
        assert digest_of(device.identity) == pinned  # everything still follows from what enrolment pinned
        # With the chain cut short, by somebody who has keys of the past, it is not believed; nor after the power went.
        device.between.missing = {"4.root.json"}
        with pytest.raises(TidelineError):
            await device.restarted(files_lost=True).client.refresh()

    told(sqlite_url, tmp_path, story)


def test_a_root_of_the_past_is_no_way_back(sqlite_url: str, tmp_path: Path) -> None:
    """Whoever stole all keys that were rotated away since replays what they signed then, after the power took the files."""

    async def story(world: World) -> None:
        await world.publish()
        then = await world.files()
        device = await world.device()
        await device.client.refresh()
        await world.rotated(*ROLES)
        await device.client.refresh()
        device.between.replaced, device.between.missing = then, {"2.root.json"}
        device = device.restarted(files_lost=True)
        with pytest.raises(Corrupt) as ended:
            await device.client.refresh()
        assert ended.value.code == "trust-rollback"

    told(sqlite_url, tmp_path, story)
