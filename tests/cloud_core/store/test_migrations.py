"""The migrations go up and down on both databases and make exactly what the tables say."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from cloud_core.store import database
from cloud_core.store import rollout_tables as tables
from shared.protocol.errors import Transient
from tests.cloud_core import postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/folder/registry.db"
    cluster: postgres.Cluster = request.getfixturevalue("cluster")
    return cluster.url(cluster.create())


async def _names(url: str) -> set[str]:
    engine = database.open_database(url)
    async with engine.connect() as connection:
        found = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
    await engine.dispose()
    return set(found)


async def _differences(url: str) -> list[object]:
    engine = database.open_database(url)
    async with engine.connect() as connection:
        found = await connection.run_sync(
            lambda sync: compare_metadata(
                MigrationContext.configure(sync, opts={"compare_type": True}), tables.metadata
            )
        )
    await engine.dispose()
    return list(found)


def test_up_makes_what_the_tables_say_and_down_leaves_nothing(empty_url: str) -> None:
    async def scenario() -> None:
        await database.migrate(empty_url)
        await database.migrate(empty_url)
        assert await _differences(empty_url) == []
        await database.unmigrate(empty_url)
        assert await _names(empty_url) == {"alembic_version"}
        await database.migrate(empty_url)
        assert await _names(empty_url) == {*tables.metadata.tables, "alembic_version"}

    asyncio.run(scenario())


def test_samples_survive_the_way_up_and_down(empty_url: str) -> None:
    async def scenario() -> None:
        await database.migrate(empty_url, revision="0002")
        engine = database.open_database(empty_url)
        async with database.write(engine) as connection:
            for statement in (
                "INSERT INTO tenants VALUES ('a', 1.0)",
                "INSERT INTO devices (tenant, device, description, revision, created_at) VALUES ('a', 'd', '', 1, 1.0)",
                "INSERT INTO telemetry VALUES ('a', 'd', 1, 2, 20.0, '{2}')",
                "INSERT INTO telemetry VALUES ('a', 'd', 1, 1, 10.0, '{1}')",
            ):
                await connection.exec_driver_sql(statement)
        await engine.dispose()

        async def rows(table: str, order: str) -> list[tuple[object, ...]]:
            engine = database.open_database(empty_url)
            async with database.read(engine) as connection:
                found = await connection.exec_driver_sql(f"SELECT seq, ended_at, sample FROM {table} ORDER BY {order}")
                kept = [tuple(row) for row in found.all()]
            await engine.dispose()
            return kept

        expected = [(1, 10.0, "{1}"), (2, 20.0, "{2}")]
        await database.migrate(empty_url)
        assert await rows("samples", "id") == expected
        await database.unmigrate(empty_url, revision="0002")
        assert await rows("telemetry", "seq") == expected
        await database.migrate(empty_url)
        assert await rows("samples", "id") == expected

    asyncio.run(scenario())


def test_one_head_and_numbered_names() -> None:
    scripts = ScriptDirectory.from_config(database.alembic_config("sqlite://"))
    assert len(scripts.get_heads()) == 1
    for script in scripts.walk_revisions():
        assert Path(script.path).name.startswith(f"{script.revision}_")
        assert len(script.revision) == 4
        assert script.revision.isdecimal()


def test_a_database_without_tables_is_not_ready(empty_url: str) -> None:
    async def scenario() -> None:
        engine = database.open_database(empty_url)
        with pytest.raises(Transient):
            await database.ping(engine)
        await engine.dispose()

    asyncio.run(scenario())
