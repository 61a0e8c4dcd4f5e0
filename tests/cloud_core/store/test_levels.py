"""What the loops write is levels: newer replaces older, never the reverse, on both databases."""

import asyncio
from collections.abc import Awaitable, Callable

from cloud_core.decide.device_clock import Offset
from cloud_core.decide.summary import summary_of
from cloud_core.store import control, devices, events, generations, groups, outbox, replicas, telemetry, tenants
from cloud_core.store.database import Connection, open_database, write
from cloud_core.store.replicas import Served
from cloud_core.store.telemetry import Row, Source, Uplink
from shared.protocol.desired import Order
from shared.protocol.reported import Birth, Convergence, Hardware, Reported
from shared.protocol.telemetry import Host, Sample

TENANT = "default"
HARDWARE = Hardware(hardware_class="box", machine="x86_64", cpus=4, memory_bytes=1 << 30)


def _in_database(url: str, scenario: Callable[[Connection], Awaitable[None]]) -> None:
    async def run() -> None:
        engine = open_database(url)
        async with write(engine) as connection:
            for tenant in (TENANT, "other"):
                await tenants.create(connection, tenant, now=1.0)
                await _device(connection, "a", tenant)
            await scenario(connection)
        await engine.dispose()

    asyncio.run(run())


async def _device(connection: Connection, name: str, tenant: str = TENANT) -> None:
    made = await devices.create(
        connection,
        tenant,
        name,
        description="",
        enrol_token_hash=f"{tenant}/{name}",
        enrol_expires_at=10.0,
        now=1.0,
    )
    assert made is not None


def _birth(epoch: int) -> Birth:
    return Birth(epoch=epoch, at=1.0, agent_version="1", hardware=HARDWARE, state_digest="")


def _report(epoch: int, seq: int) -> Reported:
    return Reported(epoch=epoch, seq=seq, at=1.0, applied=None, target=None, convergence=Convergence.NONE, models=())


def _generation(epoch: int, number: int, device: str = "a") -> generations.Stored:
    return generations.Stored(
        tenant=TENANT,
        device=device,
        epoch=epoch,
        number=number,
        content_digest="c",
        payload=f'{{"n":{number}}}',
        key_id="k",
        signature="s",
        why="new-assignment",
        created_at=float(number),
    )


def _sample(seq: int) -> Sample:
    host = Host(cpu=0.1, memory=0.1, disk_free_bytes=1, agent_memory_bytes=1)
    return Sample(seq=seq, started_at=seq - 1.0, ended_at=float(seq), host=host)


def test_an_old_death_is_ignored(database_url: str) -> None:
    async def scenario(connection: Connection) -> None:
        assert await devices.record_birth(connection, TENANT, "a", _birth(5), now=10.0)
        assert not await devices.record_birth(connection, TENANT, "a", _birth(4), now=11.0)
        assert not await devices.record_death(connection, TENANT, "a", epoch=4, now=12.0)
        assert await devices.record_death(connection, TENANT, "a", epoch=5, now=13.0)
        assert not await devices.record_death(connection, TENANT, "a", epoch=5, now=14.0)
        assert await devices.record_birth(connection, TENANT, "a", _birth(6), now=15.0)
        device = await devices.get(connection, TENANT, "a")
        assert device is not None
        assert (device.epoch, device.born_at, device.died_at) == (6, 15.0, None)
        other = await devices.get(connection, "other", "a")
        assert other is not None
        assert other.epoch is None
        assert not await devices.record_birth(connection, TENANT, "absent", _birth(1), now=1.0)

    _in_database(database_url, scenario)


def test_the_newest_report_stays(database_url: str) -> None:
    async def scenario(connection: Connection) -> None:
        for epoch, seq, is_news in (
            (2, 5, True),
            (2, 5, False),
            (2, 4, False),
            (1, 9, False),
            (2, 6, True),
            (3, 0, True),
        ):
            found = await devices.record_report(connection, TENANT, "a", _report(epoch, seq), now=1.0)
            assert found is is_news, (epoch, seq)

    _in_database(database_url, scenario)


def test_generations_are_ordered_by_epoch_then_number(database_url: str) -> None:
    async def scenario(connection: Connection) -> None:
        await _device(connection, "b")
        for epoch, number in ((1, 1), (1, 2), (1, 3)):
            await generations.add(connection, _generation(epoch, number))
        await generations.add(connection, _generation(2, 1))
        await generations.add(connection, _generation(1, 9, "b"))
        newest = await generations.newest(connection, TENANT, "a")
        assert newest is not None
        assert newest.order == Order(2, 1)
        level = await generations.newest_in(connection, TENANT)
        assert {name: stored.order for name, stored in level.items()} == {"a": Order(2, 1), "b": Order(1, 9)}
        assert await generations.newest_in(connection, "other") == {}
        owed = await outbox.unsent(connection)
        assert [pending.device for pending in owed] == ["a", "a", "a", "a", "b"]
        assert newest.signed.payload in owed[3].payload.replace("\\", "")
        await outbox.mark_sent(connection, [pending.id for pending in owed[:4]], now=5.0)
        assert [pending.device for pending in await outbox.unsent(connection)] == ["b"]
        await outbox.trim(connection, before=6.0)
        assert len(await outbox.unsent(connection)) == 1

    _in_database(database_url, scenario)


def test_old_generations_are_forgotten(database_url: str) -> None:
    async def scenario(connection: Connection) -> None:
        for number in range(1, 31):
            await generations.add(connection, _generation(1, number))
        kept = await generations.history(connection, TENANT, "a", limit=100)
        assert [stored.number for stored in kept] == list(range(30, 10, -1))

    _in_database(database_url, scenario)


def test_a_sample_counts_once(database_url: str) -> None:
    async def scenario(connection: Connection) -> None:
        own, other = Source(TENANT, "a", 1), Source("other", "a", 1)

        def rows(source: Source, *seqs: int) -> list[Row]:
            return [Row(source, ("g",), _sample(seq)) for seq in seqs]

        await telemetry.take_turn(connection)
        assert await telemetry.store(connection, rows(own, 1, 2)) == {(own, 1), (own, 2)}
        assert await telemetry.store(connection, [*rows(own, 2, 3, 3), *rows(other, 2)]) == {(own, 3), (other, 2)}
        assert await telemetry.store(connection, []) == set()
        kept = await telemetry.after(connection, 0, limit=3)
        assert [(one.tenant, one.device, one.groups, one.sample.seq) for one in kept] == [
            (TENANT, "a", ("g",), 1), (TENANT, "a", ("g",), 2), (TENANT, "a", ("g",), 3),
        ]  # fmt: skip
        assert [one.tenant for one in await telemetry.after(connection, kept[-1].id, limit=3)] == ["other"]
        await telemetry.store_new(connection, [*rows(own, 4), *rows(own, 3)])
        assert [one.sample.seq for one in await telemetry.after(connection, kept[-1].id, limit=9)] == [2, 4]

        summary, older = summary_of([_sample(2), _sample(3)]), summary_of([_sample(1)])
        assert summary is not None
        assert older is not None
        await devices.record_telemetry(connection, {(TENANT, "a"): summary}, now=5.0)
        await devices.record_telemetry(connection, {(TENANT, "a"): older}, now=6.0)
        device = await devices.get(connection, TENANT, "a")
        stranger = await devices.get(connection, "other", "a")
        assert device is not None
        assert stranger is not None
        assert (device.telemetry_at, stranger.telemetry_at) == (3.0, None)
        assert await devices.summaries(connection, {(TENANT, "a"), ("other", "a")}) == {(TENANT, "a"): summary}

        await telemetry.trim(connection, before=3.0)
        assert [one.sample.seq for one in await telemetry.after(connection, 0, limit=9)] == [3, 4]

    _in_database(database_url, scenario)


def test_what_was_acknowledged_is_remembered_by_source(database_url: str) -> None:
    async def scenario(connection: Connection) -> None:
        first, second, other = Source(TENANT, "a", 1), Source(TENANT, "a", 2), Source("other", "a", 1)
        clock = Offset(least=0.5, since=1.0)
        await telemetry.keep_uplinks(connection, {first: Uplink(7, clock), other: Uplink(None, clock)}, now=1.0)
        await telemetry.keep_uplinks(connection, {first: Uplink(9, clock), second: Uplink(1, clock)}, now=5.0)
        found = await telemetry.uplinks(connection, [first, second, other, Source(TENANT, "b", 1)])
        assert {source: uplink.seq for source, uplink in found.items()} == {first: 9, second: 1, other: None}
        await telemetry.trim(connection, before=2.0)
        assert set(await telemetry.uplinks(connection, [first, second, other])) == {first, second}

    _in_database(database_url, scenario)


def test_a_deleted_device_comes_back_empty(database_url: str) -> None:
    async def scenario(connection: Connection) -> None:
        await groups.create(connection, TENANT, "g", description="", now=1.0)
        await groups.add(connection, TENANT, "g", "a", now=1.0)
        enrolled = await devices.enrol(
            connection,
            "default/a",
            public_key="key",
            mqtt_password_hash="$7$1$a$b",
            hardware=HARDWARE,
            agent_version="1",
            now=2.0,
        )
        assert enrolled == (TENANT, "a")
        await devices.record_birth(connection, TENANT, "a", _birth(1), now=3.0)
        await devices.record_report(connection, TENANT, "a", _report(1, 1), now=3.0)
        assert [found.device for found in await devices.credentials(connection)] == ["a"]
        assert await devices.delete(connection, TENANT, "a", now=4.0)
        assert not await devices.delete(connection, TENANT, "a", now=4.0)
        assert await devices.credentials(connection) == []
        assert await devices.credential(connection, TENANT, "a") is None
        assert await groups.members(connection, TENANT, "g") == []
        assert not await devices.record_birth(connection, TENANT, "a", _birth(2), now=5.0)
        await _device(connection, "a")
        again = await devices.get(connection, TENANT, "a")
        assert again is not None
        assert (again.public_key, again.epoch, again.reported, again.enrolled_at) == (None, None, None, None)

    _in_database(database_url, scenario)


def test_replicas_make_news_only_when_something_changed(database_url: str) -> None:
    async def scenario(connection: Connection) -> None:
        before = await events.newest_id(connection)
        served = [Served(tenant=TENANT, name="m", version="1.0.0")]

        async def report(models: list[Served], now: float) -> None:
            await replicas.report(
                connection, "r0", url="http://r", kind="local", models=models, started_at=1.0, now=now
            )

        await report([], 1.0)
        await report([], 2.0)
        await report(served, 3.0)
        await report(served, 4.0)
        (alive,) = await replicas.alive(connection, since=4.0)
        assert alive.served == tuple(served)
        assert await replicas.alive(connection, since=4.1) == []
        assert await replicas.remove(connection, "r0", now=5.0)
        assert not await replicas.remove(connection, "r0", now=5.0)
        news = await events.after_in(connection, "anybody", before)
        assert [event.kind for event in news] == ["created", "updated", "deleted"]

    _in_database(database_url, scenario)


def test_epochs_only_rise(database_url: str) -> None:
    async def scenario(connection: Connection) -> None:
        assert await control.control_epoch(connection) == 1
        assert await control.raise_control_epoch(connection) == 2
        assert await control.raise_control_epoch(connection, above=7) == 8
        assert await control.control_epoch(connection) == 8
        assert [await control.next_link_epoch(connection) for _ in range(3)] == [1, 2, 3]

    _in_database(database_url, scenario)
