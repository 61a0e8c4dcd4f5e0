"""One settings mechanism: flags, then environment, then a TOML file, then defaults, into one frozen struct.

Only each program's `config.py` calls this. A bad setting is refused with one line that names the setting, its value and
what is allowed.
"""

import tomllib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TypeVar

import msgspec

from shared.protocol.errors import Refused

S = TypeVar("S", bound=msgspec.Struct)
_KINDS: dict[object, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def load(
    into: type[S], *, prefix: str, flags: Mapping[str, object], environment: Mapping[str, str], file: Path | None
) -> S:
    """A settings struct from the four sources.

    Args:
        into: the struct; its field names are the settings' names.
        prefix: of the environment variables, `EDGE_AGENT_` say; the rest is the field in upper case.
        flags: what the command line gave; None values count as absent.
        environment: usually `os.environ`.
        file: a TOML file of the same names, or None.

    Raises:
        Refused: an unknown setting, or a value the field does not take.

    """
    merged: dict[str, object] = {}
    if file is not None:
        merged |= _from_file(into, file)
    merged |= _from_environment(into, prefix, environment)
    merged |= {name: value for name, value in flags.items() if value is not None}
    values: dict[str, object] = {}
    for field in msgspec.structs.fields(into):
        if field.name not in merged:
            continue
        raw = merged[field.name]
        try:
            values[field.name] = msgspec.convert(raw, field.type, strict=False)
        except msgspec.ValidationError as error:
            allowed = _KINDS.get(field.type) or _choices(field.type) or str(error)
            raise Refused("bad setting", field=field.name, value=raw, allowed=allowed) from error
    try:
        return into(**values)
    except TypeError as error:
        raise Refused(f"missing setting: {error}", field=prefix) from error


def _choices(of: object) -> str:
    """The members of an enum; empty for any other type."""
    return ", ".join(str(each.value) for each in of) if isinstance(of, type) and issubclass(of, Enum) else ""


def _from_file(into: type[msgspec.Struct], file: Path) -> dict[str, object]:
    try:
        document = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        text = f"settings file cannot be read: {error}"
        raise Refused(text, field="config", value=str(file), allowed="a TOML file") from error
    for name in document:
        if name not in into.__struct_fields__:
            allowed = ", ".join(into.__struct_fields__)
            raise Refused(f"unknown setting in {file}", field=name, value=document[name], allowed=allowed)
    return document


def _from_environment(into: type[msgspec.Struct], prefix: str, environment: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in environment.items():
        if not name.startswith(prefix):
            continue
        field = name.removeprefix(prefix).lower()
        if field not in into.__struct_fields__:
            allowed = ", ".join(f"{prefix}{known.upper()}" for known in into.__struct_fields__)
            raise Refused("unknown setting in the environment", field=name, value=value, allowed=allowed)
        found[field] = value
    return found
