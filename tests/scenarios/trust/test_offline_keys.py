"""Keys of root and targets on somebody's laptop: `fleetctl trust` as a person runs it, and what the control plane can do without them."""

from pathlib import Path
from typing import Any

import pytest

from cloud_core.store.database import read
from cloud_core.trust.keys import KeyFolder
from cloud_core.trust.metadata import root_of, signed, targets_in, targets_of
from shared.protocol.errors import Corrupt, Transient
from shared.protocol.trust import ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from tests.cloud_core.ctl.shell import Ran, Shell
from tests.scenarios.trust.world import World, told


def _shell(world: World, home: Path) -> Shell:
    return Shell(world.api.url, home, FLEETCTL_TOKEN=world.api.admin.token or "")


async def _done(ran: Ran) -> Any:
    assert ran.status == 0, ran.err
    return ran.json


async def _tidied(world: World) -> list[str]:
    async with read(world.api.engine) as connection:
        return await world.repository.tidy(connection, "default")


def test_the_whole_way(sqlite_url: str, tmp_path: Path) -> None:
    async def story(world: World) -> None:
        shell, laptop = _shell(world, tmp_path), str(tmp_path / "laptop")
        await _done(await shell("trust", "init", "--json"))
        one = await world.publish()
        device = await world.device()
        await device.client.check(one)

        view = await _done(await shell("trust", "init", "--keys", laptop, "--json"))
        assert {role for role, each in view["roles"].items() if each["held"]} == {SNAPSHOT, TIMESTAMP}
        assert len(await _tidied(world)) == 2  # the control plane's own keys of root and targets
        assert all(file.stat().st_mode & 0o777 == 0o600 for file in Path(laptop).iterdir())
        await device.client.refresh()
        await device.client.check(one)

        two = await world.publish("2.0.0")
        view = await _done(await shell("trust", "status", "--json"))
        assert view["unsigned"] == ["tiny/2.0.0"]
        with pytest.raises(Transient, match="not among"):
            await device.client.check(two)
        refused = await shell("trust", "sign", "--keys", str(tmp_path / "empty"), "--yes")
        assert refused.status == 3, refused.err
        ran = await shell("trust", "sign", "--keys", laptop, "--yes", "--json")
        assert f"+ tiny/2.0.0 {two.digest}" in ran.err
        assert (await _done(ran))["unsigned"] == []
        await device.client.check(two)

        # Every key can be rotated, those of the control plane too; a device that was away follows.
        assert (await shell("trust", "rotate", TIMESTAMP)).status == 3
        for roles in ((TIMESTAMP, SNAPSHOT), (TARGETS,), (ROOT,), (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)):
            await _done(await shell("trust", "rotate", *roles, "--keys", laptop, "--json"))
            await _tidied(world)
        device = device.restarted()
        await device.client.check(two)
        assert device.versions()[ROOT] == 6
        assert "elsewhere" in (await shell("trust", "status")).out

    told(sqlite_url, tmp_path, story)


def test_whoever_has_all_online_keys_installs_nothing(sqlite_url: str, tmp_path: Path) -> None:
    """The control plane is taken over: its keys sign what they like, and the API takes what it takes."""

    async def story(world: World) -> None:
        shell, laptop = _shell(world, tmp_path), str(tmp_path / "laptop")
        one = await world.publish()
        device = await world.device()
        await _done(await shell("trust", "init", "--keys", laptop, "--json"))
        await _tidied(world)
        await device.client.check(one)
        evil = await world.publish("6.6.6")
        files = await world.files()
        root = root_of(files["root.json"]).signed
        held = targets_in(files["2.targets.json"]).signed
        online = [*world.keys().held(root.keys)]
        assert len(online) == 2
        standing = await _documents(world)
        made = signed(targets_of(standing, version=held.version + 1, expires_at=4e9), online).to_bytes()
        answer = await world.api.admin(
            "PUT", "/api/v1/trust", b'{"targets":' + made + b"}", Content_Type="application/json"
        )
        assert answer.status == 422
        assert answer.json["field"] == "targets.signatures"
        device.between.replaced = {"2.targets.json": made, "3.targets.json": made}
        device = device.restarted(files_lost=True)
        with pytest.raises(Corrupt):
            await device.client.refresh()
        with pytest.raises(Transient):
            await device.client.check(evil)

    told(sqlite_url, tmp_path, story)


async def _documents(world: World) -> frozenset[Any]:
    async with read(world.api.engine) as connection:
        return (await world.repository.standing(connection, "default")).wanted


def test_what_is_no_valid_successor_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    """And changes nothing."""

    async def story(world: World) -> None:
        from cloud_core.trust.metadata import next_root

        await world.publish()
        before = await world.files()
        root, mine = root_of(before["root.json"]).signed, KeyFolder(tmp_path / "mine")
        own = world.keys().held(root.roles[TARGETS].keyids)

        async def refused(field: str, **parts: bytes) -> None:
            body = b"{" + b",".join(b'"%b":%b' % (role.encode(), data) for role, data in parts.items()) + b"}"
            answer = await world.api.admin("PUT", "/api/v1/trust", body, Content_Type="application/json")
            assert answer.status in (400, 409, 422), answer.body
            assert answer.json["field"] == field, answer.body

        stranger = mine.make()
        fresh = {"expires_at": 4e9}
        for version in (1, 3):
            wrong = signed(targets_of((), version=version, **fresh), own).to_bytes()
            await refused("targets.version", targets=wrong)
        await refused("targets.expires", targets=signed(targets_of((), version=2, expires_at=1.0), own).to_bytes())
        await refused("targets.signatures", targets=signed(targets_of((), version=2, **fresh), [stranger]).to_bytes())
        await refused("targets", targets=before["root.json"])
        await refused("root", root=b"{}")
        await refused("root.version", root=before["root.json"])
        successor = next_root(root, {ROOT: stranger.public_key}, **fresh)
        await refused("root.signatures", root=signed(successor, own).to_bytes())
        taken = next_root(root, {TIMESTAMP: stranger.public_key}, **fresh)
        roots = world.keys().held(root.roles[ROOT].keyids)
        await refused("root.roles.timestamp", root=signed(taken, roots).to_bytes())
        orphaned = next_root(root, {TARGETS: stranger.public_key}, **fresh)
        await refused("root.roles.targets", root=signed(orphaned, roots).to_bytes())
        await refused("body")
        after = await world.files()
        assert after == before

    told(sqlite_url, tmp_path, story)
