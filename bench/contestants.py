"""The peers, how each is started, what it is asked, and the arrangements it may be at its best in."""

import json
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench import encoders
from bench.client import request
from bench.encoders import Encoder
from bench.environments import environment
from bench.throughput import CORES, ids_body

EDGE = "edge"
OIP, PLAIN = "/v2/models/encoder/infer", "/predict"


class Arrangement(NamedTuple):
    """`rows` of a batch at most, gathered for at most `wait` seconds; `workers` sessions of `threads` each."""

    workers: int
    threads: int
    rows: int = 1
    wait: float = 0.0

    @property
    def name(self) -> str:
        """Such as `2 x 1 threads, 16 rows, 2 ms`."""
        batch = f", {self.rows} rows, {self.wait * 1e3:g} ms" if self.rows > 1 else ""
        return f"{self.workers} x {self.threads} threads{batch}"


class Peer(NamedTuple):
    """`slowness`: how many times longer it is measured, so that answers of seconds fit in; `strays`: from the int8 program.

    `restless`: it takes CPU while it has nothing to do (LitServe's loops ask their queues: a seventh of a core each was seen).
    """

    name: str
    module: str
    path: str
    arrangements: tuple[Arrangement, ...]
    slowness: float = 1.0
    strays: float = 1e-3
    restless: bool = False

    def command(self, encoder: Encoder, port: int, arranged: Arrangement, *, python: str) -> list[str]:
        """How it is started."""
        flags = {
            "program": encoder.int8,
            "shape": encoder.shape.name,
            "port": port,
            "workers": arranged.workers,
            "threads": arranged.threads,
            "rows": arranged.rows,
            "wait": arranged.wait,
        }
        return [
            python,
            "-m",
            f"bench.peer_servers.{self.module}",
            *(f"--{name}={value}" for name, value in flags.items()),
        ]

    def requests(self, texts: Sequence[str]) -> tuple[bytes, ...]:
        """The ids of each text, as this peer takes them."""
        rows = [encoders.ids(text) for text in texts]
        return tuple(request(self.path, ids_body(row) if self.path == OIP else plain_body(row)) for row in rows)


PEERS = (
    Peer(
        "mlserver",
        "mlserver_adaptive",
        OIP,
        (
            Arrangement(1, CORES, 16, 0.002),
            Arrangement(CORES, 1, 16, 0.002),
            # None but the server's own process.
            Arrangement(0, CORES, 32, 0.002),
        ),
    ),
    Peer(
        "litserve",
        "litserve_batched",
        PLAIN,
        (Arrangement(1, CORES, 16, 0.002), Arrangement(CORES, 1, 16, 0.002), Arrangement(1, CORES, 32, 0.002)),
        restless=True,
    ),
    Peer(
        "pytriton",
        "pytriton_batched",
        OIP,
        (Arrangement(1, CORES, 16), Arrangement(CORES, 1, 16), Arrangement(1, CORES, 32, 0.002)),
    ),
    Peer(
        "flask",
        "flask_torch",
        PLAIN,
        (Arrangement(1, CORES), Arrangement(1, 1)),
        slowness=2.0,
        strays=encoders.INT8_PARITY,
    ),
)


def surroundings() -> Mapping[str, str]:
    """Variables of the peers' processes."""
    # Triton's Python stub takes the system's libpython for the interpreter's unless it finds the right one first.
    found = str(sysconfig.get_config_var("LIBDIR") or "")
    return {"LD_LIBRARY_PATH": found, "PYTRITON_HOME": str(encoders.CACHE / "pytriton"), "PYTHONWARNINGS": "ignore"}


def plain_body(row: list[int]) -> bytes:
    """One sequence as plain JSON lists."""
    found = {name: value[0].tolist() for name, value in encoders.feeds([row]).items()}
    return json.dumps(found, separators=(",", ":")).encode()


def logits_of(body: bytes) -> list[float]:
    """The two numbers of an answer, of the protocol's form or the plain one."""
    said = json.loads(body)
    data = said["outputs"][0]["data"] if "outputs" in said else said["logits"]
    return [float(each) for each in (data[0] if isinstance(data[0], list) else data)]


def main() -> int:
    """Install every peer's environment: `python -m bench.contestants`. Exit status 1 where one could not be."""
    failed = 0
    for peer in PEERS:
        try:
            print(peer.name, environment(peer.name).versions)
        except RuntimeError as error:
            failed = 1
            print(f"{peer.name} cannot be installed: {error}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
