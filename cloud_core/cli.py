"""`cloud-core`: the command line. Parses flags, reads settings, calls `app`; exit status by who must act (contract, section 2)."""

import sys
from collections.abc import Callable, Coroutine, Mapping
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console

from cloud_core import app as composition
from cloud_core import config
from cloud_core.config import Settings
from shared.io import command_line
from shared.io.program import execute
from shared.protocol.errors import Refusal, Refused, TidelineError, Transient, Unavailable


class Exit(IntEnum):
    """Exit status."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4


class Role(StrEnum):
    """A part of the control plane that runs in a process of its own."""

    API = "api"
    GATEWAY = "gateway"
    LOOPS = "loops"
    BROKER = "broker"
    INGEST = "ingest"


PORT_OF = {None: "api_port", Role.API: "api_port", Role.GATEWAY: "gateway_port", Role.BROKER: "mqtt_port"}
"""Which setting `--port` means."""

Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[
    int | None, typer.Option(help="Port of the role; of the API where everything runs. 0 is any free one.")
]
DataDir = Annotated[str | None, typer.Option(help="Folder of artifacts, keys and logs.")]
DatabaseUrl = Annotated[str | None, typer.Option(help="sqlite+aiosqlite:///... or postgresql+asyncpg://...")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
MqttHost = Annotated[str | None, typer.Option(help="Host of the broker.")]
MqttPort = Annotated[int | None, typer.Option(help="Port of the broker.")]
Embedded = Annotated[bool | None, typer.Option("--embedded-broker/--no-embedded-broker", help="Run our own broker.")]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Tenant = Annotated[str, typer.Option(help="Whose.")]

cli = typer.Typer(name="cloud-core", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
user = typer.Typer(name="user", no_args_is_help=True, help="People who log in.")
token = typer.Typer(name="token", no_args_is_help=True, help="API tokens of programs.")
cli.add_typer(user)
cli.add_typer(token)


@cli.callback()
def _about() -> None:
    """Tideline's control plane."""


@cli.command()
def serve(
    *,
    role: Annotated[Role | None, typer.Option(help="Only this role; everything where absent.")] = None,
    host: Host = None,
    port: Port = None,
    gateway_port: Annotated[int | None, typer.Option(help="Port of the gateway.")] = None,
    gateway_grpc_port: Annotated[
        int | None, typer.Option(help="gRPC port of the gateway; the one after its own where absent, -1 for no gRPC.")
    ] = None,
    replica_port: Annotated[int | None, typer.Option(help="Port of replica 0; replica i has this + 2i.")] = None,
    replica_grpc_port: Annotated[
        int | None, typer.Option(help="gRPC port of replica 0, as --replica-port; -1 for no gRPC.")
    ] = None,
    replicas: Annotated[int | None, typer.Option(help="How many local replicas.")] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    mqtt_host: MqttHost = None,
    mqtt_port: MqttPort = None,
    embedded_broker: Embedded = None,
    log_level: LogLevel = None,
    config_file: ConfigFile = None,
) -> None:
    """Run the control plane: every role, the broker and the replicas under one supervisor, or one role alone."""
    flags: dict[str, object] = {
        "host": host,
        "gateway_port": gateway_port,
        "gateway_grpc_port": gateway_grpc_port,
        "replica_port": replica_port,
        "replica_grpc_port": replica_grpc_port,
        "replicas": replicas,
        "data_dir": data_dir,
        "database_url": database_url,
        "mqtt_host": mqtt_host,
        "mqtt_port": mqtt_port,
        "mqtt_embedded": embedded_broker,
        "log_level": log_level,
    }
    if port is not None:
        if role not in PORT_OF:
            raise typer.BadParameter("this role takes no port", param_hint="--port")
        flags[PORT_OF[role]] = port
    runners: dict[Role | None, Callable[[Settings], Coroutine[Any, Any, None]]] = {
        None: composition.run_everything,
        Role.API: composition.run_api,
        Role.GATEWAY: composition.run_gateway,
        Role.LOOPS: composition.run_loops,
        Role.BROKER: composition.run_broker,
        Role.INGEST: composition.run_ingest,
    }
    _execute(runners[role], flags, config_file)


@cli.command()
def replica(
    *,
    index: Annotated[int, typer.Option(min=0, help="Which one; each has its own port and folder.")] = 0,
    host: Host = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="gRPC port; the one after --port where absent, 0 any free one, -1 none.")
    ] = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    variant: Annotated[str | None, typer.Option(help="Variant preferred, such as cpu-fp32.")] = None,
    threads: Annotated[int | None, typer.Option(help="Cores that one run of a model may use.")] = None,
    lanes: Annotated[int | None, typer.Option(help="Batches of one model computed at the same time.")] = None,
    log_level: LogLevel = None,
    config_file: ConfigFile = None,
) -> None:
    """Run one replica: it serves what the registry wants served, and says so there."""
    flags: dict[str, object] = {
        "replica_host": host,
        "replica_port": _of_replica_0(port, index),
        "replica_grpc_port": _of_replica_0(grpc_port, index),
        "data_dir": data_dir,
        "database_url": database_url,
        "replica_variant": variant,
        "replica_threads": threads,
        "replica_lanes": lanes,
        "log_level": log_level,
    }

    async def run(settings: Settings) -> None:
        await composition.run_replica(settings, index)

    _execute(run, flags, config_file)


@cli.command()
def demo(
    *,
    tour: Annotated[
        bool, typer.Option("--tour", help="End after the tour; exit status 0 only if every step held.")
    ] = False,
    folder: Annotated[Path | None, typer.Option(help="Keep everything here; a temporary folder where absent.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole platform on this machine and show what it does."""
    held = False

    async def run() -> None:
        nonlocal held
        # Those who want JSON on standard output still see on the other stream how far it is.
        console = Console(stderr=as_json)
        held = await composition.run_demo(tour_only=tour, folder=folder, console=console)

    execute(run)
    if as_json:
        _say({"held": held}, "", as_json=True)
    if not held:
        sys.exit(Exit.FAILED)


@cli.command()
def migrate(*, database_url: DatabaseUrl = None, config_file: ConfigFile = None, as_json: AsJson = False) -> None:
    """Bring the registry's database to this version's schema; harmless when it is there already."""

    async def run(settings: Settings) -> None:
        await composition.migrate(settings)
        _say({"migrated": True}, "the database is up to date", as_json=as_json)

    _execute(run, {"database_url": database_url}, config_file)


@user.command("add")
def user_add(
    *,
    name: Annotated[str, typer.Argument(help="Login name.")],
    role: Annotated[str, typer.Option(help="admin, operator, viewer or client.")] = "viewer",
    tenant: Tenant = "default",
    password: Annotated[str, typer.Option(help="Made up and printed where absent.")] = "",
    database_url: DatabaseUrl = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Add a person who may log in."""

    async def run(settings: Settings) -> None:
        made = await composition.add_user(settings, tenant=tenant, name=name, role=role, password=password)
        said = {"tenant": tenant, "name": name, "role": role, "password": made}
        _say(said, f"user {name} of tenant {tenant}, password: {made}", as_json=as_json)

    _execute(run, {"database_url": database_url}, config_file)


@token.command("create")
def token_create(
    *,
    name: Annotated[str, typer.Argument(help="What it is for.")],
    role: Annotated[str, typer.Option(help="admin, operator, viewer or client.")] = "client",
    tenant: Tenant = "default",
    valid_s: Annotated[float | None, typer.Option(help="Seconds it is valid; for ever where absent.")] = None,
    database_url: DatabaseUrl = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Create an API token; it is shown once and never again."""

    async def run(settings: Settings) -> None:
        made = await composition.create_token(settings, tenant=tenant, name=name, role=role, valid_s=valid_s)
        _say({"tenant": tenant, "name": name, "role": role, "token": made}, made, as_json=as_json)

    _execute(run, {"database_url": database_url}, config_file)


def main() -> None:
    """Entry point."""
    command_line.run(cli, "cloud-core")


def _of_replica_0(port: int | None, index: int) -> int | None:
    """Settings count ports from replica 0; 0 (any) and less (none) mean the same for all."""
    return port if port is None or port <= 0 else port - 2 * index


def _execute(run: Callable[[Settings], Coroutine[Any, Any, None]], flags: dict[str, object], file: Path | None) -> None:
    try:
        settings = config.read(flags, file)
    except Refused as error:
        _fail(error, Exit.USAGE)
    try:
        execute(lambda: run(settings))
    except TidelineError as error:
        _fail(error, _status(error))
    except BaseExceptionGroup as group:
        # A crashed task was logged where it crashed; the supervisor only needs to know that we failed.
        known, others = group.split(TidelineError)
        if others is not None:
            raise
        _fail(_first(known), Exit.FAILED)


def _first(group: BaseException | None) -> TidelineError:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group if isinstance(group, TidelineError) else Transient("failed", why=Unavailable.NOT_READY)


def _status(error: TidelineError) -> Exit:
    match error:
        case Refused(kind=Refusal.FORBIDDEN | Refusal.UNAUTHENTICATED):
            return Exit.REFUSED
        case Refused(kind=Refusal.MALFORMED):
            # Nobody is asked but this program's own rules: a flag or a setting has a value it cannot have.
            return Exit.USAGE
        case Transient(why=Unavailable.UNREACHABLE):
            return Exit.UNREACHABLE
        case _:
            return Exit.FAILED


def _fail(error: TidelineError, status: Exit) -> NoReturn:
    typer.echo(f"cloud-core: {error.message}", err=True)
    sys.exit(status)


def _say(value: Mapping[str, object], text: str, *, as_json: bool) -> None:
    typer.echo(msgspec.json.encode(value).decode() if as_json else text)
