"""A migrated registry for each test."""

import asyncio
import shutil
from pathlib import Path

import pytest

from cloud_core.store.database import migrate


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("registry") / "template.db"
    asyncio.run(migrate(f"sqlite+aiosqlite:///{file}"))
    return file


@pytest.fixture
def sqlite_url(tmp_path: Path, empty_registry: Path) -> str:
    shutil.copy(empty_registry, tmp_path / "registry.db")
    return f"sqlite+aiosqlite:///{tmp_path / 'registry.db'}"
