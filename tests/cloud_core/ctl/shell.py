"""fleetctl as a person runs it, in this process or in one of its own."""

import asyncio
import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cloud_core.ctl.cli import main


class Ran(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Runs fleetctl with a home of its own: in this process, because starting one takes a second; `fresh` in a new one."""

    def __init__(self, url: str, home: Path, **environment: str) -> None:
        self._url = url
        self._environment = {"HOME": str(home), **environment}

    async def __call__(self, *arguments: str, stdin: str = "", url: str | None = None) -> Ran:
        return await asyncio.to_thread(self._here, ["fleetctl", "--url", url or self._url, *arguments], stdin)

    async def fresh(self, *arguments: str, stdin: str = "") -> Ran:
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error",
            "-c",
            "from cloud_core.ctl.cli import main; main()",
            "--url",
            self._url,
            *arguments,
            env=self._environment | {"PATH": os.environ["PATH"]},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await program.communicate(stdin.encode())
        return Ran(program.returncode or 0, out.decode(), err.decode())

    def _here(self, arguments: list[str], stdin: str) -> Ran:
        out, err, status = io.StringIO(), io.StringIO(), 0
        given = io.TextIOWrapper(io.BytesIO(stdin.encode()))
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name in ("FLEETCTL_URL", "FLEETCTL_TOKEN", "XDG_CONFIG_HOME"):
                patch.delenv(name, raising=False)
            for name, value in self._environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", arguments)
            patch.setattr(sys, "stdin", given)
            try:
                main()
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return Ran(status, out.getvalue(), err.getvalue())
