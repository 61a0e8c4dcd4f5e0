"""`fleetctl models chunks`: what the store of chunks holds, and what the next garbage collection may take of it."""

from typing import Any

import typer

from cloud_core.ctl.client import Client, path
from cloud_core.ctl.output import AsJson, called, say, size_of, table

STATES = (("needed", "by a version, a device or a rollout"), ("young", "put lately"), ("spare", "may be collected"))


def chunks(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show what the store of chunks holds, and what garbage collection may take; nothing is removed."""

    async def work(client: Client) -> dict[str, Any]:
        return await client.get(path("chunks"), dict[str, Any])

    found = called(context, work)
    rows = [(f"{state}: {what}", str(found[state]["chunks"]), size_of(found[state]["bytes"])) for state, what in STATES]
    say(found, table("STATE", "CHUNKS", "SIZE", rows=rows), as_json=as_json)
