"""Environments of the peers: one each under `bench/.venvs`, installed by the benchmark itself from the list beside the peer."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / ".venvs"
LISTS = Path(__file__).parent / "peer_servers"
INSTALL_S = 1800.0
_VERSIONS = (
    "import json, importlib.metadata as m; print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
)


class Environment(NamedTuple):
    """A peer's interpreter, and the versions of what it was told to have."""

    python: Path
    versions: dict[str, str]


def environment(name: str) -> Environment:
    """The environment of `bench/peer_servers/<name>.txt`, installed where it is not yet, or not as the list says.

    Raises:
        RuntimeError: it cannot be installed; says what pip said.

    """
    wanted = LISTS / f"{name}.txt"
    folder = FOLDER / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    digest = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [
            str(python),
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
            "--requirement",
            str(wanted),
        ]
        _run(pip)
        stamp.write_text(digest)
    every = json.loads(_run([str(python), "-c", _VERSIONS]))
    named = [line.partition("==")[0] for line in wanted.read_text().splitlines() if "==" in line]
    return Environment(python, {each: every[each] for each in named})


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{' '.join(command[:4])}: {error}") from error
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ended with status {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout
