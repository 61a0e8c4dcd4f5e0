"""Where disks that are cut lie."""

import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def quick_folder():
    """A folder in memory, where there is one: what is cut is an image or a model, not this machine's own disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="tideline-cuts-") as folder:
        yield Path(folder)
