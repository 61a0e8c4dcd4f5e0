"""The small models that come with Tideline: bundles inside the installed package, as the importer made them of their sources."""

from importlib import resources
from pathlib import Path

from shared.bundle.manifest import MANIFEST_FILE


def shipped_models() -> list[Path]:
    """Their bundles, by name; each can be given to `publish.build_bundle`."""
    root = Path(str(resources.files("cloud_core.models"))) / "shipped"
    if not root.is_dir():
        return []
    return sorted(folder for folder in root.iterdir() if (folder / MANIFEST_FILE).is_file())
