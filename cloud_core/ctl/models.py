"""`fleetctl models`: models and their versions; publishing a folder."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Group
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from cloud_core.ctl import chunks, diff, imports
from cloud_core.ctl.card import VersionDetail, card
from cloud_core.ctl.client import Client, path
from cloud_core.ctl.output import AsJson, called, console, say, size_of, table
from cloud_core.ctl.upload import upload
from cloud_core.decide.wanted import newest
from cloud_core.models.publish import build_bundle
from shared.bundle.chunks import chunks_of
from shared.bundle.manifest import Chunk
from shared.bundle.store import ChunkStore
from shared.protocol.errors import Refused

cli = typer.Typer(no_args_is_help=True, help="Models and their versions.")
Name = Annotated[str, typer.Argument(help="The model.")]
TRIED_S = 3600.0
"""Longer than the trials of any version take."""
cli.command("import")(imports.import_)
cli.command("imports")(imports.imports)
cli.command("diff")(diff.diff)
cli.command("chunks")(chunks.chunks)


@cli.command("list")
def list_(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show every model."""

    async def work(client: Client) -> list[dict[str, Any]]:
        return [item async for item in client.pages(path("models"), dict[str, Any])]

    found = called(context, work)
    rows = [(model["name"], ", ".join(model["versions"]) or "-", model["description"]) for model in found]
    say(found, table("MODEL", "VERSIONS", "DESCRIPTION", rows=rows) if rows else "no model", as_json=as_json)


@cli.command()
def show(
    context: typer.Context,
    name: Name,
    version: Annotated[str | None, typer.Argument(help="One version; all of them where absent.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show the card of a version; of a model, its versions and the card of the newest."""
    if version is not None:
        raw = called(context, lambda client: client.get(path("models", name, "versions", version), msgspec.Raw))
        say(raw, card(msgspec.json.decode(raw, type=VersionDetail)), as_json=as_json)
        return

    async def work(client: Client) -> list[msgspec.Raw]:
        listed = [item async for item in client.pages(path("models", name, "versions"), dict[str, Any])]
        return [await client.get(path("models", name, "versions", one["version"]), msgspec.Raw) for one in listed]

    found = called(context, work)
    details = [msgspec.json.decode(raw, type=VersionDetail) for raw in found]
    say(found, _versions(details) if details else "no version", as_json=as_json)


@cli.command()
def publish(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A folder with model.json, or a bundle with manifest.json.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Publish a version: only chunks the server lacks are sent, so a broken upload goes on where it ended."""
    if not source.is_dir():
        raise Refused("not a folder", field="SOURCE", value=str(source), allowed="a folder with model.json")
    quiet = as_json or not console(stderr=True).is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="fleetctl-") as folder,
        Progress(*columns, console=console(stderr=True), disable=quiet) as progress,
    ):
        store = ChunkStore(Path(folder))
        reading = progress.add_task("reading", total=None)
        manifest, data = build_bundle(source, store)
        progress.remove_task(reading)
        uploading = progress.add_task("uploading", total=None)

        def read(chunk: Chunk) -> bytes:
            return store.get(chunk.digest)

        def sent(done: int, total: int) -> None:
            progress.update(uploading, completed=done, total=total)

        async def work(client: Client) -> Any:
            for last in (False, True):
                await upload(client, path("chunks"), chunks_of(manifest.files), read, sent)
                try:
                    # Every variant is tried before there is a version of it.
                    where = path("models", manifest.name, "versions")
                    return await client.send("POST", where, data, patience_s=TRIED_S)
                except Refused as error:
                    # What was here when we asked, and nothing needed, was collected meanwhile.
                    if last or error.code != "chunks-missing":
                        raise
            return None

        made = called(context, work)
    lines = [f"published {made['model']}@{made['version']} ({made['digest'][:12]})", *made.get("unrun", ())]
    say(made, "\n".join(lines), as_json=as_json)


@cli.command()
def delete(
    context: typer.Context,
    name: Name,
    version: Annotated[str | None, typer.Argument(help="One version; without it the model, which has none.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Hide a version no group is assigned, or a model without versions."""
    where = path("models", name) if version is None else path("models", name, "versions", version)
    called(context, lambda client: client.send("DELETE", where))
    what = name if version is None else f"{name}@{version}"
    say({"deleted": what}, f"deleted {what}", as_json=as_json)


def _versions(details: Sequence[VersionDetail]) -> Group | Table:
    rows = [
        (
            detail.version,
            detail.task,
            ", ".join(variant.name for variant in detail.manifest.variants),
            size_of(detail.size),
            detail.digest[:12],
            detail.published_by,
        )
        for detail in details
    ]
    shown = table("VERSION", "TASK", "VARIANTS", "SIZE", "DIGEST", "PUBLISHED BY", rows=rows)
    highest = newest([detail.version for detail in details])
    return Group(shown, Text(""), card(next(detail for detail in details if detail.version == highest)))
