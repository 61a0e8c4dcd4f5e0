"""The three laws hold in the tree, and each check finds a planted violation."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import laws, write_map

LAWS = {"direction": laws.direction, "purity": laws.purity, "composition": laws.composition, "house": laws.house}


@pytest.mark.parametrize("law", LAWS)
def test_the_tree_keeps_the_law(law):
    violations = [found for path, source in laws.sources(*laws.PACKAGES) for found in LAWS[law](path, source)]
    assert violations == []


def test_tests_examples_and_benches_keep_the_house_rules():
    found = [
        v for path, source in laws.sources("tests", "examples", "bench", "migrations") for v in laws.house(path, source)
    ]
    assert found == []


PLANTED = [
    ("direction", "shared/io/clock.py", "import cloud_core.keys\n"),
    ("direction", "edge_agent/cli.py", "from cloud_core import keys\n"),
    ("direction", "cloud_core/cli.py", "def late():\n    from edge_agent import app\n"),
    ("purity", "edge_agent/decide/routing.py", "import datetime\n"),
    ("purity", "edge_agent/decide/routing.py", "from time import monotonic\n"),
    ("purity", "cloud_core/decide/generation.py", "import numpy as np\n"),
    ("purity", "shared/protocol/topics.py", "from shared.io import clock\n"),
    ("purity", "shared/bundle/manifest.py", "text = open('x').read()\n"),
    ("purity", "shared/serving/decide/batching.py", "now = __import__('time').time()\n"),
    ("purity", "shared/serving/decide/batching.py", "async def form():\n    pass\n"),
    ("purity", "shared/serving/decide/batching.py", "from shared.serving import answer\n"),
    ("composition", "edge_agent/serving/router.py", "import os\nhome = os.environ['HOME']\n"),
    ("composition", "cloud_core/api/models.py", "from os import getenv\n"),
    ("composition", "cloud_core/api/models.py", "cache = {}\n"),
    ("composition", "cloud_core/api/models.py", "import asyncio\nlock = asyncio.Lock()\n"),
    (
        "composition",
        "cloud_core/api/models.py",
        "from prometheus_client import Counter\nREQUESTS = Counter('a', 'b')\n",
    ),
    ("composition", "cloud_core/api/models.py", "import structlog\n\ndef f():\n    return structlog.get_logger()\n"),
    ("house", "cloud_core/api/utils.py", ""),
    ("house", "shared/common/x.py", ""),
    ("house", "shared/io/long.py", "\n" * 301),
]


@pytest.mark.parametrize(("law", "path", "source"), PLANTED)
def test_a_planted_violation_is_found(law, path, source):
    assert list(LAWS[law](path, source))


IMPORT_CONTRACTS = [
    ("shared/io/clock.py", "import cloud_core.keys  # noqa\n"),
    ("edge_agent/config.py", "import cloud_core.keys  # noqa\n"),
    ("shared/protocol/topics.py", "import shared.io.clock  # noqa\n"),
    ("edge_agent/config.py", "import grpc  # noqa\n"),
]


@pytest.mark.parametrize(("path", "line"), IMPORT_CONTRACTS)
def test_the_import_contracts_break_on_a_planted_violation(tmp_path, path, line):
    for package in laws.PACKAGES:
        shutil.copytree(
            laws.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "shipped")
        )
    shutil.copy(laws.ROOT / "pyproject.toml", tmp_path)
    planted = tmp_path / path
    planted.write_text(line + planted.read_text())
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "BROKEN" in done.stdout


def test_every_path_in_the_map_exists():
    text = (laws.ROOT / "docs/map.md").read_text()
    paths = re.findall(r"`([A-Za-z_.][\w./-]*/[\w./-]*)`", text.partition("##")[0])
    assert len(paths) > 30, "the map names the places"
    assert [path for path in paths if not (laws.ROOT / path).exists()] == []


def test_the_map_has_every_file_with_what_it_says_of_itself():
    text = write_map.MAP.read_text()
    assert text == write_map.whole(text), "run python -m tests.architecture.write_map"


def test_every_file_says_what_it_does():
    silent = [
        path
        for path, source in laws.sources(*laws.PACKAGES)
        if not path.endswith("__init__.py") and not write_map.first_line(source)
    ]
    assert silent == []


def test_nothing_committed_names_a_machine_or_a_home():
    pattern = re.compile(r"/(?:root|home/\w+|work)/")
    listed = subprocess.run(["git", "ls-files"], cwd=laws.ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = []
    for name in listed.stdout.splitlines():
        file = laws.ROOT / name
        if (
            file.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".service", ".sh", ""}
            and file.is_file()
            and name != "tests/architecture/test_laws.py"
        ):
            found += [f"{name}: {m.group()}" for m in pattern.finditer(file.read_text(errors="ignore"))]
    assert found == []
