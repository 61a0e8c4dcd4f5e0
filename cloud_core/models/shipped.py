"""The small models that come with Tideline: source folders inside the installed package."""

from importlib import resources
from pathlib import Path

from cloud_core.models.source import SOURCE_FILE


def shipped_models() -> list[Path]:
    """Their source folders, by name; each can be given to `publish.build_bundle`."""
    root = Path(str(resources.files("cloud_core.models"))) / "shipped"
    if not root.is_dir():
        return []
    return sorted(folder for folder in root.iterdir() if (folder / SOURCE_FILE).is_file())
