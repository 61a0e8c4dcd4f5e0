"""A virtual environment with `tideline[edge]` in it and nothing else: the built wheel, and links to just the packages it needs.

What it needs is read from the packages' own metadata, so nothing is fetched and nothing that happens to be installed helps.
"""

import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.architecture.laws import ROOT

EXTRA = "edge"


def make_clean_edge(folder: Path) -> Path:
    """The environment's Python."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", ROOT]
    subprocess.run(build, check=True, capture_output=True)
    home = folder / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    site = next(home.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(next((folder / "dist").glob("*.whl"))) as wheel:
        wheel.extractall(site)
    for name in sorted(needed("tideline", frozenset({EXTRA}))):
        for entry in _entries(metadata.distribution(name)):
            if not (site / entry.name).exists():
                (site / entry.name).symlink_to(entry)
    return home / "bin" / "python"


def needed(name: str, extras: frozenset[str]) -> set[str]:
    """The distributions that `name[extras]` needs, and what they need, without itself."""
    found: set[str] = set()
    waiting, seen = [(name, extras)], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for text in metadata.requires(current[0]) or ():
            wanted = Requirement(text)
            # An empty extra stands for what is always needed.
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *current[1])):
                found.add(wanted.name.lower())
                waiting.append((wanted.name, frozenset(wanted.extras)))
    return found - {name}


def _entries(distribution: metadata.Distribution) -> Iterator[Path]:
    """What a distribution put into site-packages, at the top."""
    tops = {path.parts[0] for path in distribution.files or () if path.parts[0] not in ("..", "__pycache__")}
    for top in sorted(tops):
        yield Path(str(distribution.locate_file(top)))
