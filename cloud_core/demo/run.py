"""The command `cloud-core demo`: start, tour, stay until Ctrl-C (or end after the tour), stop everything."""

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from rich.console import Console

from cloud_core.demo.platform import Platform, choose_ports
from cloud_core.demo.tour import EDGES, Tour


async def run_demo(
    stopping: asyncio.Event, *, tour_only: bool, folder: Path | None, console: Console, environment: Mapping[str, str]
) -> bool:
    """Run the whole platform in a folder of its own; False where a step of the tour did not hold.

    Args:
        stopping: set by Ctrl-C.
        tour_only: end after the tour.
        folder: where everything is kept; None for a new temporary one that is removed at the end.
        console: where a person reads.
        environment: what the children inherit.

    """
    kept = folder is not None
    home = folder or Path(tempfile.mkdtemp(prefix="tideline-demo-"))
    ports, notes = choose_ports(len(EDGES))
    for note in notes:
        console.print(f"[yellow]{note}[/]")
    password = secrets.token_urlsafe(9)
    console.print(f"logs and state in {home}")
    platform = Platform(home, ports, environment=environment, admin_password=password)
    held = False
    try:
        async with aiohttp.ClientSession() as session:
            tour = Tour(platform, console=console, session=session, password=password, environment=dict(environment))
            running = asyncio.create_task(tour.run(), name="tour")
            stopped = asyncio.create_task(stopping.wait(), name="stopping")
            await asyncio.wait((running, stopped), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                held = running.result()
                if held and not tour_only:
                    console.print("\nEverything is running. Ctrl-C stops it.")
                    await stopped
            else:
                console.print("\nstopping before the tour's end")
            for task in (running, stopped):
                task.cancel()
            await asyncio.gather(running, stopped, return_exceptions=True)
    finally:
        with console.status("stopping everything"):
            await platform.stop()
        if not held:
            for child in (platform.cloud, *platform.edges.values()):
                console.print(f"--- the end of {child.name}'s log\n{child.tail()}", highlight=False, markup=False)
        if not kept:
            shutil.rmtree(home, ignore_errors=True)
    return held
