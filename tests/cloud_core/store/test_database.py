"""Transactions: durable settings, writers that take turns, snapshots, and errors by who must act."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from cloud_core.store import control, events, tenants
from cloud_core.store.database import open_database, read, write
from shared.protocol.errors import Transient, Unavailable


def test_sqlite_is_durable_and_checks_foreign_keys(sqlite_url: str) -> None:
    async def scenario() -> None:
        engine = open_database(sqlite_url)
        async with read(engine) as connection:
            values = [
                (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
        assert values == ["wal", 2, 1, 10000]
        await engine.dispose()

    asyncio.run(scenario())


def test_writers_take_turns_and_lose_nothing(database_url: str) -> None:
    async def scenario() -> None:
        engines = [open_database(database_url) for _ in range(2)]

        async def raise_epoch(i: int) -> int:
            async with write(engines[i % 2]) as connection:
                return await control.next_link_epoch(connection)

        found = await asyncio.gather(*(raise_epoch(i) for i in range(20)))
        assert sorted(found) == list(range(1, 21))
        for engine in engines:
            await engine.dispose()

    asyncio.run(scenario())


def test_a_failed_block_leaves_nothing(database_url: str) -> None:
    async def scenario() -> None:
        engine = open_database(database_url)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what fails
            async with write(engine) as connection:
                await tenants.create(connection, "gone", now=1.0)
                _ = 1 / 0
        async with read(engine) as connection:
            assert not await tenants.exists(connection, "gone")
            assert await events.newest_id(connection) == 0
        await engine.dispose()

    asyncio.run(scenario())


def test_a_read_is_one_snapshot(database_url: str) -> None:
    async def scenario() -> None:
        engine = open_database(database_url)
        async with read(engine) as reader:
            assert await tenants.every_name(reader) == []
            async with write(engine) as writer:
                await tenants.create(writer, "one", now=1.0)
            assert await tenants.every_name(reader) == []
        async with read(engine) as reader:
            assert await tenants.every_name(reader) == ["one"]
        await engine.dispose()

    asyncio.run(scenario())


def test_a_reader_of_events_never_misses_one(database_url: str) -> None:
    """Ids must become visible in order, or a poller that remembers the last one skips those that commit late."""

    async def scenario() -> None:
        engine = open_database(database_url)
        writers = 8

        async def some(i: int) -> None:
            for n in range(5):
                async with write(engine) as connection:
                    await events.append(connection, "t", kind="made", resource="things", name=f"{i}-{n}", now=1.0)
                    await asyncio.sleep(0)

        seen: list[int] = []

        async def follow() -> None:
            while len(seen) < writers * 5:
                async with read(engine) as connection:
                    seen.extend(event.id for event in await events.after(connection, seen[-1] if seen else 0))
                await asyncio.sleep(0)

        async with asyncio.timeout(60):
            await asyncio.gather(follow(), *(some(i) for i in range(writers)))
        assert seen == sorted(seen)
        assert len(set(seen)) == writers * 5
        await engine.dispose()

    asyncio.run(scenario())


def test_a_database_that_is_gone_is_transient() -> None:
    async def scenario() -> None:
        engine = open_database("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
        with pytest.raises(Transient) as caught:
            async with read(engine) as connection:
                await connection.execute(sa.text("SELECT 1"))
        assert caught.value.why is Unavailable.UNREACHABLE
        await engine.dispose()

    asyncio.run(scenario())


def test_a_busy_sqlite_is_transient(sqlite_url: str) -> None:
    async def scenario() -> None:
        engine = open_database(sqlite_url)
        impatient = open_database(sqlite_url)

        @sa.event.listens_for(impatient.sync_engine, "connect")
        def _(connection: object, _record: object) -> None:
            connection.cursor().execute("PRAGMA busy_timeout = 1")  # type: ignore[attr-defined]

        async with write(engine):
            with pytest.raises(Transient):
                async with write(impatient):
                    pass
        await engine.dispose()
        await impatient.dispose()

    asyncio.run(scenario())


def test_a_folder_that_is_missing_is_made(tmp_path: Path) -> None:
    async def scenario() -> None:
        engine = open_database(f"sqlite+aiosqlite:///{tmp_path}/a/b/registry.db")
        async with read(engine) as connection:
            assert (await connection.execute(sa.text("SELECT 1"))).scalar_one() == 1
        await engine.dispose()

    asyncio.run(scenario())
