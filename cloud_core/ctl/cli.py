"""`fleetctl`: the command line over the REST API. Exit status: 0 done, 1 failed, 2 usage, 3 refused, 4 not reachable."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from cloud_core.ctl import config, devices, groups, models, policies, rollouts, telemetry, trust
from cloud_core.ctl.client import Client, path
from cloud_core.ctl.load.command import load
from cloud_core.ctl.output import AsJson, Options, called, console, say, status_of, target
from cloud_core.ctl.top import top
from cloud_core.ctl.why import why
from shared.io import command_line
from shared.protocol.errors import TidelineError

cli = typer.Typer(name="fleetctl", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
cli.add_typer(models.cli, name="models")
cli.add_typer(devices.cli, name="devices")
cli.add_typer(groups.cli, name="groups")
cli.add_typer(policies.cli, name="policies")
cli.add_typer(rollouts.cli, name="rollouts")
cli.add_typer(telemetry.cli, name="telemetry")
cli.add_typer(trust.cli, name="trust")
cli.command()(top)
cli.command()(load)
cli.command()(why)


class LoggedIn(msgspec.Struct, frozen=True):
    """What fleetctl needs of the answer to a login."""

    token: str
    expires_at: float
    role: str


@cli.callback()
def about(
    context: typer.Context,
    *,
    url: Annotated[str | None, typer.Option(help="The API; FLEETCTL_URL, or where login went.")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="Where login keeps its token.")] = None,
) -> None:
    """Operate a Tideline fleet."""
    context.obj = Options(url, config_file)


@cli.command()
def login(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Option(help="Who.")] = "admin",
    tenant: Annotated[str, typer.Option(help="Of which tenant.")] = "default",
    password: Annotated[
        str | None, typer.Option(help="Asked for where absent; others on this machine may see it.")
    ] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read it from standard input.")] = False,
    as_json: AsJson = False,
) -> None:
    """Log in, and keep the token for the commands to come."""
    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    given = password if password is not None else typer.prompt("Password", hide_input=True, err=True)
    to = target(context)
    body = {"tenant": tenant, "name": name, "password": given}
    answer = called(context, lambda client: _login(client, body))
    session = config.Session(url=to.url, token=answer.token, tenant=tenant, name=name, expires_at=answer.expires_at)
    config.keep(to.file, session)
    shown = {"url": to.url, "tenant": tenant, "name": name, "role": answer.role, "expires_at": session.expires_at}
    say(shown, f"logged in to {to.url} as {name} ({answer.role} of tenant {tenant})", as_json=as_json)


def main() -> None:
    """Entry point."""
    try:
        command_line.run(cli, "fleetctl")
    except TidelineError as error:
        console(stderr=True).print(f"fleetctl: {error.message}", markup=False, soft_wrap=True)
        sys.exit(status_of(error))


async def _login(client: Client, body: dict[str, str]) -> LoggedIn:
    return msgspec.convert(await client.send("POST", path("login"), body), LoggedIn)
