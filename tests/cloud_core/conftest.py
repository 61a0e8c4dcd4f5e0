"""Databases for tests: migrated once per session, copied for each test."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_core.store.database import migrate
from tests.cloud_core import postgres


@pytest.fixture(scope="session")
def cluster() -> Iterator[postgres.Cluster]:
    with postgres.cluster() as running:
        yield running


@pytest.fixture(scope="session")
def migrated_cluster(cluster: postgres.Cluster) -> tuple[postgres.Cluster, str]:
    template = cluster.create()
    asyncio.run(migrate(cluster.url(template)))
    return cluster, template


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("registry") / "template.db"
    asyncio.run(migrate(f"sqlite+aiosqlite:///{file}"))
    return file


@pytest.fixture
def sqlite_url(tmp_path: Path, migrated_file: Path) -> str:
    """An empty, migrated SQLite registry."""
    shutil.copy(migrated_file, tmp_path / "registry.db")
    return f"sqlite+aiosqlite:///{tmp_path / 'registry.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty, migrated registry on each database."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_url")
        return
    running, template = request.getfixturevalue("migrated_cluster")
    name = running.create(template)
    yield running.url(name)
    running.drop(name)
