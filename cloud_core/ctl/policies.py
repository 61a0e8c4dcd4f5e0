"""`fleetctl policies`: routing policies."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from cloud_core.ctl.client import Client, path
from cloud_core.ctl.output import AsJson, ago, called, say, table
from shared.protocol.errors import Refused

cli = typer.Typer(no_args_is_help=True, help="Routing policies.")
Name = Annotated[str, typer.Argument(help="The policy.")]


@cli.command("list")
def list_(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show every policy."""

    async def work(client: Client) -> list[dict[str, Any]]:
        return [item async for item in client.pages(path("policies"), dict[str, Any])]

    found = called(context, work)
    rows = [
        (
            policy["name"],
            str(policy["revision"]),
            policy["document"]["mode"],
            f"{policy['document']['deadline_ms']:g} ms",
            ago(policy["updated_at"], time.time()),
        )
        for policy in found
    ]
    shown = table("POLICY", "REVISION", "MODE", "DEADLINE", "CHANGED", rows=rows) if rows else "no policy"
    say(found, shown, as_json=as_json)


@cli.command()
def show(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """Show one policy."""
    policy = called(context, lambda client: client.get(path("policies", name), dict[str, Any]))
    text = msgspec.json.format(msgspec.json.encode(policy["document"])).decode()
    say(policy, Text(f"{name}, revision {policy['revision']}\n{text}"), as_json=as_json)


@cli.command("set")
def set_(
    context: typer.Context,
    name: Name,
    file: Annotated[Path, typer.Argument(help="A .toml or .json file; - reads JSON from standard input.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Make or change a policy."""
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror}", field="FILE", value=str(file)) from error
    kind = "application/toml" if file.suffix == ".toml" else "application/json"
    made = called(
        context, lambda client: client.send("PUT", path("policies", name), data, headers={"Content-Type": kind})
    )
    say(made, f"{name} has revision {made['revision']}", as_json=as_json)


@cli.command()
def delete(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """Hide a policy that no assignment uses."""
    called(context, lambda client: client.send("DELETE", path("policies", name)))
    say({"deleted": name}, f"deleted policy {name}", as_json=as_json)
