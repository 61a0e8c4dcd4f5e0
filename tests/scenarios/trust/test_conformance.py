"""What TUF promises, by behaviour: each attack of its specification, on the real client and the real repository.

Where python-tuf's files went with the power, the device's own floor must hold.
"""

import asyncio
import json
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from shared.protocol.desired import ModelRef
from shared.protocol.errors import Corrupt, Refused, Transient
from shared.protocol.trust import ROLES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, TrustState
from tests.scenarios.trust.world import DAY_S, World, told


def test_what_is_published_may_be_installed_and_nothing_else(sqlite_url: str, tmp_path: Path) -> None:
    async def story(world: World) -> None:
        one = await world.publish()
        device = await world.device()
        await device.client.check(one)
        assert device.client.report().state is TrustState.FRESH
        with pytest.raises(Refused, match="another manifest"):
            await device.client.check(ModelRef(name="tiny", version="1.0.0", digest="0" * 64))
        with pytest.raises(Transient, match="not among"):
            await device.client.check(ModelRef(name="tiny", version="9.0.0", digest=one.digest))
        two = await world.publish("2.0.0")  # the next look finds it, without waiting for its hour
        await device.client.check(two)
        asked = len(device.between.asked)
        await device.client.check(one)
        assert len(device.between.asked) == asked  # fresh: nothing is asked for again
        assert (await world.api.admin("DELETE", "/api/v1/models/tiny/versions/2.0.0")).status == 204
        await device.client.refresh()
        with pytest.raises(Transient, match="not among"):
            await device.client.check(two)

    told(sqlite_url, tmp_path, story)


@pytest.mark.parametrize("files_lost", [False, True])
def test_rollback(sqlite_url: str, tmp_path: Path, files_lost: bool) -> None:
    async def story(world: World) -> None:
        one = await world.publish()
        old = await world.files()
        two = await world.publish("2.0.0")
        device = await world.device()
        await device.client.check(two)
        before = device.versions()
        device.between.replaced = old
        device = device.restarted(files_lost=files_lost)
        with pytest.raises(Corrupt):
            await device.client.refresh()
        assert device.client.report().state is TrustState.REFUSED
        assert device.versions() == before
        await device.client.check(two)  # what was verified before stays so
        with pytest.raises(Transient, match="cannot be verified"):
            await device.client.check(one)
        device.between.replaced = {}
        await device.client.refresh()  # and the truth is believed again
        await device.client.check(one)
        assert device.client.report().state is TrustState.FRESH

    told(sqlite_url, tmp_path, story)


def test_freeze(sqlite_url: str, tmp_path: Path) -> None:
    """Or a clock far ahead, which looks the same: all is stale, what is held stays, and the truth is believed again."""

    async def story(world: World) -> None:
        await world.kept(after_s=-2 * DAY_S)
        stale = await world.files()
        one = await world.publish()
        device = await world.device()
        await device.client.check(one)
        device = device.restarted(files_lost=True)
        device.between.replaced = stale
        with pytest.raises(Corrupt) as ended:
            await device.client.refresh()
        assert ended.value.code == "trust-expired"
        assert device.client.report().state is TrustState.STALE
        assert device.client.report().alarm
        await device.client.check(one)
        with pytest.raises(Transient):
            await device.client.check(ModelRef(name="tiny", version="2.0.0", digest="1" * 64))
        device.between.replaced = {}
        await device.client.refresh()
        assert device.client.report().state is TrustState.FRESH

    told(sqlite_url, tmp_path, story)


def test_a_clock_far_behind(sqlite_url: str, tmp_path: Path) -> None:
    """The device believes it is decades ago: nothing looks expired, and the floors still keep the order."""

    async def story(world: World) -> None:
        await world.kept(after_s=20_000 * DAY_S)
        old = await world.files()
        await world.publish()
        await world.kept(after_s=20_001 * DAY_S)
        device = await world.device()
        await device.client.refresh()
        device.between.replaced = old
        device = device.restarted(files_lost=True)
        with pytest.raises(Corrupt) as ended:
            await device.client.refresh()
        assert ended.value.code == "trust-rollback"

    told(sqlite_url, tmp_path, story)


@pytest.mark.parametrize("stale", ["1.snapshot.json", "1.targets.json"])
def test_mix_and_match(sqlite_url: str, tmp_path: Path, stale: str) -> None:
    """Each file is good, and was served once; together they were never."""

    async def story(world: World) -> None:
        await world.kept()
        old = await world.files()
        device = await world.device()
        await device.client.refresh()
        two = await world.publish()
        new = await world.files()
        place = stale.replace("1.", "2.")
        assert new[place] != old[stale]
        device.between.replaced = {place: old[stale]}
        device = device.restarted(files_lost=True)
        with pytest.raises(Corrupt):
            await device.client.refresh()
        with pytest.raises(Transient):
            await device.client.check(two)

    told(sqlite_url, tmp_path, story)


def test_an_update_that_is_given_up_ends(sqlite_url: str, tmp_path: Path) -> None:
    """An agent that stops does not wait for a server that never answers."""

    async def story(world: World) -> None:
        device = await world.device()
        asked = asyncio.Event()

        async def never(path: str, max_bytes: int, /) -> bytes:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError(path)

        device.use(never)
        task = asyncio.create_task(device.client.refresh())
        await asked.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        device.use(device.between)
        await device.client.refresh()

    told(sqlite_url, tmp_path, story)


@pytest.mark.parametrize("role", ROLES)
def test_endless_data(sqlite_url: str, tmp_path: Path, role: str) -> None:
    """A server that never stops sending one of the files: over real HTTP, cut off at what the file may have."""

    async def story(world: World) -> None:
        await world.publish()
        device = await world.device()
        sent, ended = 0, asyncio.Event()

        async def forever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
            try:
                while True:
                    writer.write(b" " * 65536)
                    await writer.drain()
                    sent += 65536
            except ConnectionError:
                ended.set()

        async with await asyncio.start_server(forever, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            liar = device.way_to(url)
            real, file = device.between, _file_of(role)

            async def mixed(path: str, max_bytes: int, /) -> bytes:
                return await (liar if path.endswith(f"/{file}") else real)(path, max_bytes)

            device.use(mixed)
            with pytest.raises(Corrupt) as refused:
                await device.client.refresh()
            assert refused.value.code == "too-long"
            await ended.wait()
            assert sent < 8_000_000  # what lay in sockets' buffers included
        assert device.client.report().state is TrustState.REFUSED

    told(sqlite_url, tmp_path, story)


def _file_of(role: str) -> str:
    return {ROOT: "2.root.json", TIMESTAMP: "timestamp.json", SNAPSHOT: "1.snapshot.json", TARGETS: "1.targets.json"}[
        role
    ]


@pytest.mark.parametrize("role", [TIMESTAMP, SNAPSHOT, TARGETS])
def test_a_flipped_byte_or_a_foreign_key(sqlite_url: str, tmp_path: Path, role: str) -> None:
    async def story(world: World) -> None:
        one = await world.publish()
        device = await world.device()
        name = _file_of(role)
        good = (await world.files())[name]
        for at in range(0, len(good), max(1, len(good) // 40)):
            flipped = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
            device.between.replaced = {name: flipped}
            with pytest.raises(Corrupt):
                await device.client.refresh()
        foreign = Metadata.from_bytes(good)
        foreign.sign(world.keys("elsewhere").make())
        device.between.replaced = {name: foreign.to_bytes()}
        with pytest.raises(Corrupt):
            await device.client.refresh()
        assert device.versions() == {}
        device.between.replaced = {}
        await device.client.check(one)

    told(sqlite_url, tmp_path, story)


def test_another_tenants_metadata(sqlite_url: str, tmp_path: Path) -> None:
    """Same names, same kinds of files: none of it counts here, and no key is shared."""

    async def story(world: World) -> None:
        await world.publish()
        await world.kept(tenant="other")
        device = await world.device()
        other = await world.files("other")
        device.between.replaced = other
        with pytest.raises(Corrupt):
            await device.client.refresh()
        ours = json.loads((await world.files())["root.json"])["signed"]["keys"]
        assert not set(ours) & set(json.loads(other["root.json"])["signed"]["keys"])

    told(sqlite_url, tmp_path, story)
