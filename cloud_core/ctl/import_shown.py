"""Imports as fleetctl shows them: what the API answers, a table of it, one whole, and what a failure means for the exit status."""

import time
from collections.abc import Sequence

import msgspec
from rich.table import Table
from rich.text import Text

from cloud_core.ctl.output import ago, state, table
from shared.protocol.errors import Corrupt, Refusal, Refused, TidelineError, Transient, Unavailable

ENDED = ("completed", "failed", "cancelled")


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why an import failed, as the API tells it."""

    code: str
    detail: str
    field: str | None = None
    allowed: str | None = None
    refused: bool = False


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """What fleetctl needs of an import."""

    id: str
    model: str
    version: str
    source: str
    variants: tuple[str, ...]
    state: str
    step: str
    done: float
    detail: str
    attempts: int
    error: Failure | None
    result: dict[str, str] | None
    requested_by: str
    created_at: float
    finished_at: float | None


def error_of(one: Import) -> TidelineError:
    """What an import that was not completed ended with, as the error whose exit status says so."""
    if one.error is None:
        return Corrupt(f"the import of {one.model}@{one.version} was cancelled", code="cancelled")
    text = f"{one.model}@{one.version} was not imported: {one.error.detail}"
    if one.error.allowed is not None and one.error.allowed not in text:
        text += f"; allowed: {one.error.allowed}"
    if one.error.refused:
        return Refused(text, kind=Refusal.UNPROCESSABLE, code=one.error.code)
    if one.error.code == Unavailable.UNREACHABLE:
        return Transient(text, why=Unavailable.UNREACHABLE)
    return Corrupt(text, code=one.error.code)


def imports_table(found: Sequence[Import]) -> Table:
    """A table of imports."""
    now = time.time()
    rows = [
        (
            one.id, f"{one.model}@{one.version}", state(one.state), _far(one), one.source, one.requested_by,
            ago(one.created_at, now),
        )
        for one in found
    ]  # fmt: skip
    return table("ID", "VERSION", "STATE", "STEP", "SOURCE", "BY", "ASKED FOR", rows=rows)


def _far(one: Import) -> str:
    if one.error is not None:
        return one.error.code
    return f"{one.step} {100 * one.done:.0f} %".strip() if one.state == "in_progress" else "-"


def import_grid(one: Import) -> Table:
    """All of one import."""
    grid = Table.grid(padding=(0, 2))
    now = time.time()
    rows: list[tuple[str, str | Text]] = [
        ("import", one.id),
        ("version", f"{one.model}@{one.version}"),
        ("source", one.source),
        ("variants", ", ".join(one.variants)),
        ("state", state(one.state)),
        ("step", f"{one.step} {100 * one.done:.0f} % {one.detail}".strip()),
        ("attempts", str(one.attempts)),
        ("by", one.requested_by),
        ("asked for", ago(one.created_at, now)),
        ("ended", ago(one.finished_at, now) if one.finished_at else "-"),
        ("digest", one.result["digest"] if one.result else "-"),
        ("error", f"{one.error.code}: {one.error.detail}" if one.error else "-"),
    ]
    for label, value in rows:
        # What an importer says is text, never markup.
        grid.add_row(label, Text(value) if isinstance(value, str) else value)
    return grid
