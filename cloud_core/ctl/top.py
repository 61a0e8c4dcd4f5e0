"""`fleetctl top`: the fleet, live."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from cloud_core.ctl.client import Client
from cloud_core.ctl.fleet import Device, fleet, fleet_table, milliseconds
from cloud_core.ctl.output import AsJson, called, console, say
from shared.protocol.errors import Overloaded, Transient
from shared.protocol.telemetry import merged, quantile


def top(
    context: typer.Context,
    *,
    interval_s: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 1.0,
    group: Annotated[str | None, typer.Option(help="Only devices of this group.")] = None,
    once: Annotated[bool, typer.Option("--once", help="One look, then end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch the fleet: a table that follows it until Ctrl-C. With --json, one look."""
    if once or as_json:
        found, raw = called(context, lambda client: fleet(client, group))
        say(raw, None, as_json=as_json)
        if not as_json:
            console().print(_screen(found))
        return

    async def work(client: Client) -> None:
        with Live(console=console(), auto_refresh=False, screen=console().is_terminal) as live:
            while True:
                try:
                    found, _ = await fleet(client, group)
                    live.update(_screen(found), refresh=True)
                except (Transient, Overloaded) as error:
                    live.update(Text(error.message, style="red"), refresh=True)
                await asyncio.sleep(interval_s)

    with contextlib.suppress(KeyboardInterrupt):
        called(context, work)


def _screen(devices: Sequence[Device]) -> Group:
    summaries = [device.telemetry for device in devices if device.telemetry is not None]
    online = sum(device.presence.state == "online" for device in devices)
    p99 = quantile(merged(summary.latency for summary in summaries), 0.99)
    head = (
        f"{online} of {len(devices)} devices online, {sum(summary.rate for summary in summaries):.1f} requests/s, "
        f"p99 {milliseconds(p99)}, {sum(summary.where.get('cloud', 0) for summary in summaries)} answered in the cloud, "
        f"{sum(summary.shed for summary in summaries)} shed"
    )
    return Group(Text(head, style="bold"), Text(""), fleet_table(devices, time.time()))
