"""Where each process of this machine listens: one durable file per process in `run/` under the data folder.

The process that listens writes it; the supervisor, people and tests read it. A file says which process wrote it, so one that
a dead process left behind is never mistaken for a live one.
"""

import os
from pathlib import Path

import msgspec

from shared.io.durable import write_durably
from shared.protocol.envelope import decoded
from shared.protocol.errors import Refused


class Announced(msgspec.Struct, frozen=True, kw_only=True):
    """Process `pid` answers HTTP (its work, or only health and metrics) at `url` since `at`, Unix seconds."""

    name: str
    pid: int
    url: str
    at: float


def announce(folder: Path, *, name: str, url: str, at: float) -> None:
    """Say that this process listens at `url`."""
    record = Announced(name=name, pid=os.getpid(), url=url, at=at)
    write_durably(folder / f"{name}.json", msgspec.json.encode(record))


def announced(folder: Path, name: str) -> Announced | None:
    """What `name` last said; None if nothing readable."""
    try:
        return decoded((folder / f"{name}.json").read_bytes(), Announced)
    except (OSError, Refused):
        return None


def url_of(host: str, port: int) -> str:
    """Where a process that listens on `host` is reached from this machine."""
    reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
