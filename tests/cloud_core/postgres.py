"""A real PostgreSQL for one test session: a cluster of its own in a temporary folder, on a Unix socket only."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OWNER = "postgres"
USER = "tideline"
PORT = 54329


def binaries() -> Path:
    """Where `initdb` and `pg_ctl` are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    if path is None:
        raise RuntimeError("PostgreSQL is not installed: tests/install_system.sh installs it")
    return Path(path).parent


class Cluster:
    """One running cluster."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bin = binaries()
        self._made = 0

    def url(self, database: str) -> str:
        return f"postgresql+asyncpg://{USER}@/{database}?host={self._folder}&port={PORT}"

    def create(self, template: str = "template1") -> str:
        """A new database's name."""
        self._made += 1
        name = f"test{self._made}"
        self._run("createdb", "-T", template, name)
        return name

    def drop(self, name: str) -> None:
        self._run("dropdb", "--force", name)

    def start(self) -> None:
        data = str(self._folder / "data")
        self._as_owner("initdb", "-D", data, "-A", "trust", "-U", USER, "-N", "-E", "UTF8", "--locale", "C")
        options = f"-k {self._folder} -p {PORT} -c listen_addresses= -c fsync=off -c max_connections=200"
        log = str(self._folder / "log")
        self._as_owner("pg_ctl", "-D", data, "-w", "-t", "60", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        self._as_owner("pg_ctl", "-D", str(self._folder / "data"), "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        self._as_owner(program, "-h", str(self._folder), "-p", str(PORT), "-U", USER, *arguments)

    def _as_owner(self, program: str, *arguments: str) -> None:
        # PostgreSQL refuses to run as root.
        before = ["runuser", "-u", OWNER, "--"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*before, str(self._bin / program), *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr}")


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster, gone at the end. The folder's path is short, because a socket's path may have 107 characters only."""
    with tempfile.TemporaryDirectory(prefix="tidelinepg", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        if os.geteuid() == 0:
            shutil.chown(folder, OWNER, OWNER)
        running = Cluster(folder)
        running.start()
        try:
            yield running
        finally:
            running.stop()
