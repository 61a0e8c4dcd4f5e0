"""A cloud of its own for an example: on free ports, in a temporary folder, gone when the example ends."""

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from cloud_core.demo.fleet import Fleet
from cloud_core.demo.platform import Platform, choose_ports, wait_http

Command = list[str]


class SmallCloud:
    """`fleetctl` logged in to a running control plane, and an edge agent that serves what it published."""

    def __init__(self, folder: Path, url: str, token: str) -> None:
        self.folder = folder
        self._environment = {**os.environ, "FLEETCTL_URL": url, "FLEETCTL_TOKEN": token}

    def fleetctl(self, *arguments: str) -> None:
        """Run `fleetctl` as a person would; what it says goes to the terminal."""
        print("$ fleetctl", *arguments, flush=True)
        command = [sys.executable, "-m", "cloud_core.ctl", *arguments]
        subprocess.run(command, env=self._environment, cwd=self.folder, check=True)


@contextmanager
def small_cloud() -> Iterator[SmallCloud]:
    """Start `cloud-core serve`, wait until it answers, stop it at the end."""
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        password = secrets.token_urlsafe()
        ports, _ = choose_ports(0, usual=False)
        platform = Platform(Path(folder), ports, environment=os.environ, admin_password=password)
        platform.set_cloud(replicas="0")

        async def start() -> str:
            await platform.cloud.start()
            async with aiohttp.ClientSession() as session:
                await wait_http(session, f"{platform.api}/ready", seconds=90)
                fleet = Fleet(session, platform.api)
                await fleet.login(password)
                return fleet.token

        try:
            yield SmallCloud(Path(folder), platform.api, runner.run(start()))
        finally:
            runner.run(platform.stop())
