"""`fleetctl devices`: the fleet, one device, a new one, one less."""

import time
from typing import Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from cloud_core.ctl.client import Client, path
from cloud_core.ctl.fleet import Device, fleet, fleet_table, generation, milliseconds, models, requests
from cloud_core.ctl.output import AsJson, ago, called, say, state
from cloud_core.ctl.tuned import lines_of

cli = typer.Typer(no_args_is_help=True, help="The devices of the fleet.")
Name = Annotated[str, typer.Argument(help="The device.")]


@cli.command("list")
def list_(
    context: typer.Context,
    *,
    group: Annotated[str | None, typer.Option(help="Only devices of this group.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show every device: is it there, what should it run, what does it run, how is it doing."""
    found, raw = called(context, lambda client: fleet(client, group))
    say(raw, fleet_table(found, time.time()) if found else "no device", as_json=as_json)


@cli.command()
def show(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """Show one device."""
    raw = called(context, lambda client: client.get(path("devices", name), msgspec.Raw))
    say(raw, _detail(msgspec.json.decode(raw, type=Device)), as_json=as_json)


@cli.command()
def create(
    context: typer.Context,
    name: Name,
    *,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    group: Annotated[list[str] | None, typer.Option(help="Put it into this group; may be repeated.")] = None,
    valid_s: Annotated[float, typer.Option(help="Seconds the enrolment token is valid.")] = 86400.0,
    as_json: AsJson = False,
) -> None:
    """Make a device; its one-time enrolment token is shown once."""
    body = {"device": name, "description": description, "groups": group or [], "enrol_valid_s": valid_s}
    made = called(context, lambda client: client.send("POST", path("devices"), body))
    say(made, _token(made), as_json=as_json)


@cli.command()
def enrol(
    context: typer.Context,
    name: Name,
    *,
    valid_s: Annotated[float, typer.Option(help="Seconds the enrolment token is valid.")] = 86400.0,
    as_json: AsJson = False,
) -> None:
    """Make another one-time enrolment token for a device that lost its identity."""
    body = {"enrol_valid_s": valid_s}
    made = called(context, lambda client: client.send("POST", path("devices", name, "enrolment"), body))
    say(made, _token(made), as_json=as_json)


@cli.command()
def delete(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """Forget a device; its credentials end at once."""

    async def work(client: Client) -> None:
        await client.send("DELETE", path("devices", name))

    called(context, work)
    say({"deleted": name}, f"deleted {name}", as_json=as_json)


def _token(made: dict[str, str]) -> str:
    return f"{made['device']} may enrol once with this token:\n{made['enrol_token']}"


def _detail(device: Device) -> Table:
    now = time.time()
    grid = Table.grid(padding=(0, 2))
    reported, telemetry = device.reported, device.telemetry
    rows: list[tuple[str, str | Text]] = [
        ("device", device.device),
        ("description", device.description or "-"),
        ("groups", ", ".join(device.groups) or "-"),
        ("presence", state(device.presence.state)),
        ("because", device.presence.why),
        ("last seen", ago(device.last_seen, now)),
        ("enrolled", ago(device.enrolled_at, now)),
        ("agent", device.agent_version or "-"),
        ("hardware", device.hardware.hardware_class if device.hardware else "-"),
        ("generation", generation(device)),
        ("made because", device.desired.why if device.desired else "-"),
        ("models", models(device)),
        ("tuned", "\n".join(lines_of(device)) or "-"),
        ("requests", requests(telemetry)),
        ("p50, p99", f"{milliseconds(telemetry.p50)}, {milliseconds(telemetry.p99)}" if telemetry else "-"),
        ("error", (reported.error if reported else None) or "-"),
    ]
    for label, value in rows:
        grid.add_row(label, value)
    return grid
