"""How fleetctl talks: tables for people, JSON for programs, one line and an exit status for what went wrong."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from cloud_core.ctl import config
from cloud_core.ctl.client import Client
from shared.protocol.errors import Refusal, Refused, TidelineError, Transient, Unavailable

T = TypeVar("T")
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
STATES = {
    "online": "green", "ready": "green", "applied": "green", "completed": "green",
    "succeeded": "green", "running": "yellow", "updating": "yellow", "waiting": "yellow", "awaiting_approval": "yellow",
    "paused": "red", "rolling_back": "red", "rolled_back": "red", "aborted": "red", "timed_out": "red",
    "stale": "yellow", "converging": "yellow", "fetching": "yellow", "verifying": "yellow", "loading": "yellow",
    "warming": "yellow", "draining": "yellow", "queued": "yellow", "in_progress": "yellow",
    "lost": "red", "failed": "red", "refused": "red",
}  # fmt: skip


class Exit(IntEnum):
    """Exit status (contract, section 2)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4


_REFUSED = (
    Refusal.UNAUTHENTICATED, Refusal.FORBIDDEN, Refusal.CONFLICT, Refusal.PRECONDITION, Refusal.UNPROCESSABLE,
)  # fmt: skip


class Options(msgspec.Struct, frozen=True):
    """The flags before the command."""

    url: str | None
    file: Path | None


def called(context: typer.Context, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run `work` with a client of the API the flags, environment and session name."""

    async def run() -> T:
        async with Client(target(context)) as client:
            return await work(client)

    return asyncio.run(run())


def target(context: typer.Context) -> config.Target:
    """Whom to call."""
    options = context.find_object(Options)
    if options is None:
        raise RuntimeError("the callback of fleetctl makes the options")
    return config.read(url=options.url, file=options.file)


def say(value: object, shown: Group | Table | Text | str | None, *, as_json: bool) -> None:
    """`value` as JSON, or what people see."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    elif shown is not None:
        console().print(shown)


def console(*, stderr: bool = False) -> Console:
    """A terminal, or a pipe wide enough that nothing is cut."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 200)


def table(*columns: str, rows: Sequence[Sequence[str | Text]]) -> Table:
    """A plain table."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def state(word: str) -> Text:
    """A state in its colour."""
    return Text(word, style=STATES.get(word, ""))


def ago(at: float | None, now: float) -> str:
    """A time as people say it."""
    if at is None:
        return "never"
    seconds = max(0.0, now - at)
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def size_of(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def status_of(error: TidelineError) -> Exit:
    """The exit status of an error."""
    match error:
        case Refused(kind=kind) if kind in _REFUSED:
            return Exit.REFUSED
        case Transient(why=Unavailable.UNREACHABLE):
            return Exit.UNREACHABLE
        case _:
            return Exit.FAILED
