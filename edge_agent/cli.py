"""`edge-agent`: the command line. Parses flags, reads settings, calls `app`; exit status by who must act (contract, section 2)."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
from rich.console import Console

from edge_agent import app as composition
from edge_agent import ask, config, tune_table, tuning
from edge_agent.config import Settings
from shared.io import command_line, logs
from shared.io.program import Program, execute
from shared.protocol.errors import Refusal, Refused, TidelineError, Transient, Unavailable

T = TypeVar("T")


class Exit(IntEnum):
    """Exit status."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4


Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="HTTP port; 0 is any free one.")]
GrpcPort = Annotated[
    int | None, typer.Option(help="gRPC port; the one after --port where absent, 0 any free one, -1 none.")
]
Uds = Annotated[str | None, typer.Option(help="Path of a Unix socket to listen on besides.")]
StateDir = Annotated[str | None, typer.Option(help="Folder of what the device keeps.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.")]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]
Threads = Annotated[int | None, typer.Option(help="Cores that one run of a model may use.")]
Lanes = Annotated[int | None, typer.Option(help="Batches of one model that are computed at the same time.")]
Variant = Annotated[str | None, typer.Option(help="Variant preferred, such as cpu-int8.")]
EnrolUrl = Annotated[str | None, typer.Option("--enrol-url", help="cloud-core's API, for a device not enrolled yet.")]
EnrolToken = Annotated[str | None, typer.Option("--enrol-token", help="One-time token of this device.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Url = Annotated[str | None, typer.Option(help="Where the agent listens, where its state folder does not say.")]

cli = typer.Typer(name="edge-agent", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@cli.callback()
def _about() -> None:
    """Tideline's agent on a device."""


@cli.command()
def run(
    *,
    host: Host = None,
    port: Port = None,
    grpc_port: GrpcPort = None,
    uds: Uds = None,
    state_dir: StateDir = None,
    enrol_url: EnrolUrl = None,
    enrol_token: EnrolToken = None,
    variant: Variant = None,
    threads: Threads = None,
    lanes: Lanes = None,
    log_level: LogLevel = None,
    config_file: ConfigFile = None,
) -> None:
    """Run the agent of an enrolled device, or of one that is to be enrolled."""
    flags: dict[str, object] = {
        "host": host,
        "port": port,
        "grpc_port": grpc_port,
        "uds": uds,
        "state_dir": state_dir,
        "enrol_url": enrol_url,
        "enrol_token": enrol_token,
        "variant": variant,
        "threads": threads,
        "lanes": lanes,
        "log_level": log_level,
    }
    settings = _settings(flags, config_file)
    _serve(settings, composition.build_agent)


@cli.command()
def serve(
    *,
    paths: Annotated[list[Path], typer.Argument(help="Folders with a bundle, or .onnx files.", metavar="PATH...")],
    host: Host = None,
    port: Port = None,
    grpc_port: GrpcPort = None,
    uds: Uds = None,
    variant: Variant = None,
    threads: Threads = None,
    lanes: Lanes = None,
    log_level: LogLevel = None,
    config_file: ConfigFile = None,
) -> None:
    """Serve bundles or plain .onnx files straight from disk, with no cloud and no broker."""
    flags: dict[str, object] = {
        "host": host,
        "port": port,
        "grpc_port": grpc_port,
        "uds": uds,
        "variant": variant,
        "threads": threads,
        "lanes": lanes,
        "log_level": log_level,
    }

    async def build(settings: Settings, log: logs.Log) -> Program:
        return await composition.build_standalone(settings, log, paths)

    _serve(_settings(flags, config_file), build)


@cli.command()
def enrol(
    *,
    enrol_url: EnrolUrl = None,
    enrol_token: EnrolToken = None,
    state_dir: StateDir = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Enrol this device with its one-time token and end."""
    flags: dict[str, object] = {"enrol_url": enrol_url, "enrol_token": enrol_token, "state_dir": state_dir}
    settings = _settings(flags, config_file)
    own = _once(lambda: composition.enrol_device(settings))
    told = {"tenant": own.tenant, "device": own.device, "api_url": own.api_url, "gateway_url": own.gateway_url}
    _say(told, f"enrolled as {own.tenant}/{own.device}", as_json=as_json)


@cli.command()
def status(
    *,
    state_dir: StateDir = None,
    url: Url = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Tell what the device runs, how far it is, and how it stands with its cloud."""
    settings = _settings({"state_dir": state_dir}, config_file)
    told = _once(lambda: ask.status(settings.state, url))
    _say(told, "\n".join(ask.lines_of(told)), as_json=as_json)


@cli.command()
def tune(
    *,
    what: Annotated[
        list[str] | None,
        typer.Argument(help="Installed models, folders with a bundle, or .onnx files.", metavar="[MODEL|PATH]..."),
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="How long each version may take.")] = None,
    variant: Variant = None,
    threads: Threads = None,
    lanes: Lanes = None,
    state_dir: StateDir = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Measure how models run best on this device, and remember it; all that are installed where none is named."""
    flags: dict[str, object] = {
        "tune_seconds": seconds,
        "variant": variant,
        "threads": threads,
        "lanes": lanes,
        "state_dir": state_dir,
    }
    settings, watch = _settings(flags, config_file), tune_table.Watch(Console(stderr=True))
    log = logs.build("edge-agent", level="error")
    try:
        records = _once(lambda: tuning.tune_by_hand(settings, log, what or (), watch.told))
    finally:
        watch.stop()
    if as_json:
        _say(tune_table.as_json(records), "", as_json=True)
    else:
        Console().print(tune_table.shown(records))


@cli.command()
def infer(
    *,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    text: Annotated[str, typer.Argument(help="What to ask it; - reads standard input.")],
    deadline_ms: Annotated[float | None, typer.Option(help="Milliseconds the answer may take.")] = None,
    private: Annotated[bool, typer.Option("--private", help="The request may not leave the device.")] = False,
    state_dir: StateDir = None,
    url: Url = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Ask the running agent one thing."""
    settings = _settings({"state_dir": state_dir}, config_file)
    said = sys.stdin.read() if text == "-" else text
    at = url or ask.address(settings)
    told = _once(lambda: ask.infer(at, model, said, deadline_ms=deadline_ms, private=private))
    body = msgspec.json.format(msgspec.json.encode(told.get("result")), indent=2).decode()
    _say(told, f"{body}\n{told.get('where')}: {told.get('model')}", as_json=as_json)


def main() -> None:
    """Entry point."""
    command_line.run(cli, "edge-agent")


def _settings(flags: Mapping[str, object], file: Path | None) -> Settings:
    try:
        return config.read(flags, file)
    except Refused as error:
        _fail(error, Exit.USAGE)


def _serve(settings: Settings, build: Callable[[Settings, logs.Log], Coroutine[Any, Any, Program]]) -> None:
    file = Path(settings.log_file) if settings.log_file else None

    async def main() -> None:
        program = await build(settings, logs.build("edge-agent", level=settings.log_level, file=file))
        await program.run(lifeline=config.lifeline())

    try:
        execute(main)
    except TidelineError as error:
        _fail(error, _status(error))
    except BaseExceptionGroup as group:
        known, others = group.split(TidelineError)
        if others is not None or known is None:
            raise
        first = _first(known)
        _fail(first, _status(first))


def _once(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    try:
        return asyncio.run(call())
    except TidelineError as error:
        _fail(error, _status(error))


def _first(group: BaseException) -> TidelineError:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    if not isinstance(group, TidelineError):
        raise group
    return group


def _status(error: TidelineError) -> Exit:
    match error:
        case Refused(kind=Refusal.FORBIDDEN | Refusal.UNAUTHENTICATED):
            return Exit.REFUSED
        case Refused(field="enrol_url" | "enrol_token"):
            return Exit.USAGE
        case Refused(kind=Refusal.MALFORMED, field="state_dir" | "log_file"):
            return Exit.USAGE
        case Transient(why=Unavailable.UNREACHABLE):
            return Exit.UNREACHABLE
        case _:
            return Exit.FAILED


def _fail(error: TidelineError, status: Exit) -> NoReturn:
    typer.echo(f"edge-agent: {error.message}", err=True)
    sys.exit(status)


def _say(value: object, text: str, *, as_json: bool) -> None:
    typer.echo(msgspec.json.encode(value).decode() if as_json else text)
