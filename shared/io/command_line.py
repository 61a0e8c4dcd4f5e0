"""How the programs' command lines begin and end: what is used wrongly gets one line and exit status 2 (contract, section 2)."""

import sys

import typer
from typer.exceptions import TyperException

from shared.protocol.errors import shortened


def run(cli: typer.Typer, name: str) -> None:
    """Run the command that `sys.argv` names; `name` stands before what the line says.

    A command exits by itself with the status of its own errors.
    """
    try:
        status = cli(standalone_mode=False)
    except TyperException as error:
        # Where no command was given its help is on the screen already, and nothing is left to say.
        said = " ".join(error.format_message().split())
        if said:
            typer.echo(f"{name}: {said}{_given(error, said)}", err=True)
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(1)
    if isinstance(status, int):
        sys.exit(status)


def _given(error: TyperException, said: str) -> str:
    """The value that was refused, where the sentence leaves it out: typer's converters tell it in what caused the error."""
    details = getattr(error.__cause__, "errors", None)
    for detail in details() if callable(details) else ():
        value = shortened(detail.get("input"))
        if value not in said:
            return f"; got {value}"
    return ""
