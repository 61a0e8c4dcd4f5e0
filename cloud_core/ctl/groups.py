"""`fleetctl groups`: groups of devices, and what they should run."""

from typing import Annotated, Any

import typer

from cloud_core.ctl.client import Client, path
from cloud_core.ctl.output import AsJson, called, say, table
from cloud_core.ctl.tuned import with_tuned

cli = typer.Typer(no_args_is_help=True, help="Groups of devices, and what they should run.")
Name = Annotated[str, typer.Argument(help="The group.")]
Devices = Annotated[list[str], typer.Argument(help="One or more devices.")]


@cli.command("list")
def list_(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show every group, its devices and its assignment."""

    async def work(client: Client) -> list[dict[str, Any]]:
        assigned = {item["group"]: item async for item in client.pages(path("assignments"), dict[str, Any])}
        groups = [item async for item in client.pages(path("groups"), dict[str, Any])]
        return [{**group, "assignment": assigned.get(group["name"])} for group in groups]

    found = called(context, work)
    rows = [
        (group["name"], ", ".join(group["devices"]) or "-", *_assignment(group["assignment"]), group["description"])
        for group in found
    ]
    shown = table("GROUP", "DEVICES", "MODELS", "POLICY", "DESCRIPTION", rows=rows) if rows else "no group"
    say(found, shown, as_json=as_json)


@cli.command()
def create(
    context: typer.Context,
    name: Name,
    *,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a group."""
    body = {"name": name, "description": description}
    made = called(context, lambda client: client.send("POST", path("groups"), body))
    say(made, f"made group {name}", as_json=as_json)


@cli.command()
def delete(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """Drop a group that has no assignment."""
    called(context, lambda client: client.send("DELETE", path("groups", name)))
    say({"deleted": name}, f"deleted group {name}", as_json=as_json)


@cli.command()
def add(context: typer.Context, name: Name, devices: Devices, *, as_json: AsJson = False) -> None:
    """Put devices into a group."""

    async def work(client: Client) -> Any:
        group: Any = None
        for device in devices:
            group = await client.send("PUT", path("groups", name, "members", device))
        return group

    group = called(context, work)
    say(group, f"{name}: {', '.join(group['devices'])}", as_json=as_json)


@cli.command()
def remove(context: typer.Context, name: Name, devices: Devices, *, as_json: AsJson = False) -> None:
    """Take devices out of a group."""

    async def work(client: Client) -> Any:
        for device in devices:
            await client.send("DELETE", path("groups", name, "members", device))
        return await client.get(path("groups", name), dict[str, Any])

    group = called(context, work)
    say(group, f"{name}: {', '.join(group['devices']) or 'no device'}", as_json=as_json)


@cli.command()
def assign(
    context: typer.Context,
    name: Name,
    *,
    model: Annotated[list[str], typer.Option(help="name@version or name@version/variant; may be repeated.")],
    policy: Annotated[str | None, typer.Option(help="Routing policy; the default one where absent.")] = None,
    priority: Annotated[int, typer.Option(help="The highest wins where groups disagree.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Limit: threads.")] = None,
    memory_bytes: Annotated[int | None, typer.Option(help="Limit: memory.")] = None,
    disk_bytes: Annotated[int | None, typer.Option(help="Limit: disk.")] = None,
    download_bytes_per_s: Annotated[int | None, typer.Option(help="Limit: download rate.")] = None,
    download_window: Annotated[str | None, typer.Option(help="Limit: when, such as 22:00-05:30 (UTC).")] = None,
    tuned: Annotated[
        bool,
        typer.Option(
            "--tuned", help="Tell each kind of device what others of it measured, instead of measuring again."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what the devices of a group should run."""
    limits = {
        "threads": threads,
        "memory_bytes": memory_bytes,
        "disk_bytes": disk_bytes,
        "download_bytes_per_s": download_bytes_per_s,
        "download_window": download_window,
    }
    named = [_wanted(text) for text in model]

    async def work(client: Client) -> Any:
        wanted = await with_tuned(client, named) if tuned else named
        body = {"models": wanted, "policy": policy, "priority": priority, "limits": limits}
        return await client.send("PUT", path("assignments", name), body)

    made = called(context, work)
    models, chosen = _assignment(made)
    say(made, f"{name} runs {models} under policy {chosen}", as_json=as_json)


@cli.command()
def unassign(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """The group asks for nothing any more."""
    called(context, lambda client: client.send("DELETE", path("assignments", name)))
    say({"unassigned": name}, f"{name} asks for nothing", as_json=as_json)


def _wanted(text: str) -> dict[str, str]:
    name, _, rest = text.partition("@")
    version, _, variant = rest.partition("/")
    if not name or not version:
        raise typer.BadParameter(f"{text!r} is not name@version or name@version/variant", param_hint="--model")
    return {"name": name, "version": version} | ({"variant": variant} if variant else {})


def _assignment(assignment: dict[str, Any] | None) -> tuple[str, str]:
    if assignment is None:
        return "-", "-"
    models = [
        f"{model['name']}@{model['version']}"
        + (f"/{model['variant']}" if model.get("variant") else "")
        + (f" (as measured on {', '.join(model['tuned'])})" if model.get("tuned") else "")
        for model in assignment["models"]
    ]
    return ", ".join(models) or "nothing", assignment["policy"] or "(default)"
