"""What the tour asks of the registry, over its REST API, and how it waits for a fleet to get there."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from shared.protocol.errors import Transient, Unavailable

Device = dict[str, Any]


class Fleet:
    """A client of one cloud-core's API."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._token = ""

    async def login(self, password: str, *, name: str = "admin") -> None:
        """Log in; every later call carries the token."""
        answer = await self.call("POST", "/login", {"name": name, "password": password})
        self._token = answer["token"]

    @property
    def token(self) -> str:
        """The access token."""
        return self._token

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """One REST call; the JSON answer, None for an empty one.

        Raises:
            Transient: anything but success, with what the API said.

        """
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            async with self._session.request(
                method, f"{self._url}/api/v1{path}", json=body, headers=headers, timeout=aiohttp.ClientTimeout(total=30)
            ) as answer:
                data = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Transient(f"{method} {path}: {error}", why=Unavailable.UNREACHABLE) from error
        if answer.status >= 400:
            raise Transient(f"{method} {path}: {answer.status} {data[:500].decode()}", why=Unavailable.NOT_READY)
        return msgspec.json.decode(data) if data else None

    async def devices(self) -> dict[str, Device]:
        """Every device by name."""
        page = await self.call("GET", "/devices?limit=1000")
        return {device["device"]: device for device in page["items"]}

    async def wait(
        self,
        until: Callable[[dict[str, Device]], bool],
        *,
        seconds: float,
        what: str,
        progress: Callable[[dict[str, Device]], None] | None = None,
    ) -> dict[str, Device]:
        """Poll the fleet until `until` holds.

        Raises:
            Transient: it did not within `seconds`; says what each device was doing.

        """
        deadline = time.monotonic() + seconds
        fleet: dict[str, Device] = {}
        while True:
            try:
                fleet = await self.devices()
            except Transient:
                if time.monotonic() >= deadline:
                    raise
            if progress is not None:
                progress(fleet)
            if fleet and until(fleet):
                return fleet
            if time.monotonic() >= deadline:
                stand = "; ".join(f"{name}: {standing(device)}" for name, device in fleet.items())
                raise Transient(f"{what} did not happen within {seconds:g} s: {stand}", why=Unavailable.NOT_READY)
            await asyncio.sleep(0.2)


def applied(device: Device) -> tuple[int, int] | None:
    """The generation that answers on a device, as it reported."""
    order = (device["reported"] or {}).get("applied")
    return (order[0], order[1]) if order else None


def is_converged(device: Device) -> bool:
    """Online, and answering with the newest generation that was made for it."""
    desired, reported = device["desired"], device["reported"]
    if device["presence"]["state"] != "online" or desired is None or reported is None:
        return False
    return reported["convergence"] == "applied" and applied(device) == (desired["epoch"], desired["number"])


def standing(device: Device) -> str:
    """A few words on how far a device is."""
    reported = device["reported"]
    if reported is None:
        return device["presence"]["state"]  # type: ignore[no-any-return]
    order = applied(device)
    words = [device["presence"]["state"], reported["convergence"], f"{order[0]}.{order[1]}" if order else "nothing yet"]
    return " ".join([*words, *(reported[name] for name in ("step", "error") if reported.get(name))])


async def fleetctl(*arguments: str, url: str, token: str, environment: Mapping[str, str], folder: Path) -> str:
    """Run `fleetctl` as a person would, with a terminal's width; its output.

    Raises:
        Transient: it failed; carries what it said.

    """
    process = await asyncio.create_subprocess_exec(
        *_program(arguments),
        env={**environment, "FLEETCTL_URL": url, "FLEETCTL_TOKEN": token, "COLUMNS": "160", "HOME": str(folder)},
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        said = (err or out).decode(errors="replace").strip()
        raise Transient(f"fleetctl {' '.join(arguments)}: exit {process.returncode}: {said}", why=Unavailable.NOT_READY)
    return out.decode()


def _program(arguments: Sequence[str]) -> list[str]:
    script = Path(sys.executable).with_name("fleetctl")
    program = [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-m", "cloud_core.ctl"]
    return [*program, *arguments]
