"""The migrations go up and down on both databases and make exactly what the tables say."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from cloud_core.store import database, tables
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
