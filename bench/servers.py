"""Servers under measurement: started as processes, waited for until they answer right, ended by the process ids they began with."""

import contextlib
import http.client
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).parent.parent
PATIENCE_S = 120.0
"""How long a server may take until its first answer."""


class Answer(NamedTuple):
    """Of one request."""

    status: int
    body: bytes


class Running(NamedTuple):
    """A started server: where it listens, the root of its process tree, and what tells how it is and the end of what it wrote."""

    port: int
    pid: int
    said: Callable[[], str]


def edge_agent(paths: Sequence[Path], *, port: int, uds: str = "", arguments: Sequence[str] | None = None) -> list[str]:
    """The command of an agent that serves `paths` from disk, without gRPC.

    `arguments`: further flags; those of the variable BENCH_EDGE_ARGS where None, such as `--lanes 2 --threads 1`.
    """
    given = edge_arguments() if arguments is None else list(arguments)
    listening = ["--port", str(port), "--grpc-port", "-1", *(["--uds", uds] if uds else [])]
    return [sys.executable, "-m", "edge_agent", "serve", *map(str, paths), *listening, "--log-level", "warning", *given]


def edge_arguments() -> list[str]:
    """Further flags of every agent that is measured, from the variable BENCH_EDGE_ARGS."""
    return shlex.split(os.environ.get("BENCH_EDGE_ARGS", ""))


@contextlib.contextmanager
def started(
    command: Sequence[str], *, port: int, first: bytes, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Run `command` until the block ends; its body begins once the request `first` (whole, `client.request`) has got a 200.

    Raises:
        RuntimeError: it ended, or does not answer so in time; says the end of what it wrote.

    """
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )

        def said() -> str:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
            how = "runs" if server.poll() is None else f"ended with status {server.returncode}"
            return f"it {how}, and wrote: {log.read().decode(errors='replace').strip()}"

        try:
            _wait(server, port, first, said)
            yield Running(port, server.pid, said)
        finally:
            end(server)


def ask(port: int, data: bytes, *, timeout: float = 60.0) -> Answer:
    """One whole request on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(data)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return Answer(answer.status, answer.read())


def end(server: "subprocess.Popen[bytes]") -> None:
    """End a server and all it started, by process id."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(server.pid)
        tree = root.children(recursive=True)
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        _, left = psutil.wait_procs(tree, timeout=3)
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    if server.poll() is None:
        server.kill()
    server.wait()


def _wait(server: "subprocess.Popen[bytes]", port: int, first: bytes, said: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    last = "nothing yet"
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            answer = ask(port, first)
        except (OSError, http.client.HTTPException) as error:
            last = f"{type(error).__name__}: {error}"
        else:
            if answer.status == 200:
                return
            last = f"{answer.status} {answer.body[:300]!r}"
        time.sleep(0.1)
    raise RuntimeError(f"the server does not answer ({last}); {said()}")
